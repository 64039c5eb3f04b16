"""The encoders of the challenge, by their names in the libraries that know them."""

TEXT_ENCODER = "sentence-transformers/all-roberta-large-v1"  # RoBERTa-large, 1024 wide
IMAGE_ENCODER = "timm:vit_giant_patch14_dinov2.lvd142m"  # DINOv2-giant, 1536 wide
