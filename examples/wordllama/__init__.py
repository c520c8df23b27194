"""WordLlama as a Ringmaster worker that turns texts into vectors, for apps made for OpenAI's embeddings."""
