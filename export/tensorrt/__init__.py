"""TensorRT engines of an exported repository, in both editions.

TensorRT proper builds on the data-centre card that will run the engine, and Triton's `tensorrt` backend serves it.
TensorRT for RTX builds for GeForce and RTX cards on any machine, without a card.
"""
