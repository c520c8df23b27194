"""SmolLM2-135M-Instruct as a Ringmaster worker that answers chats token by token."""
