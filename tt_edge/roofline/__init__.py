"""A roofline prediction of a decoder's speed on named devices: bytes, operations and time, layer by layer. Torch-free."""

from tt_edge.roofline.devices import DEVICES, Device, find_device
from tt_edge.roofline.from_config import FORMATS, decoder_of_config
from tt_edge.roofline.from_network import decoder_of_network
from tt_edge.roofline.operations import Math, Operation, Step
from tt_edge.roofline.predict import LayerTime, Prediction, predict

__all__ = [
    "DEVICES",
    "FORMATS",
    "Device",
    "LayerTime",
    "Math",
    "Operation",
    "Prediction",
    "Step",
    "decoder_of_config",
    "decoder_of_network",
    "find_device",
    "predict",
]
