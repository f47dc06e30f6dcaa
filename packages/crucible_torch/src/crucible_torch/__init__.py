"""The local torch engine of Crucible: LoRA and full fine-tuning, sampling."""
