"""Published GraphCape, CapeX and CapeFormer checkpoints as our models."""
