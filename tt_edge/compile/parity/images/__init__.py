"""Images and videos on Hugging Face's side: its processors, its towers, and the features that both are compared by."""
