"""Videos in prompts: which frames are taken, how they are prepared, and what a prompt says about them."""
