"""RapidOCR as a Ringmaster worker that reads the text on pictures, and an app that sends them through its arena."""
