"""Pictures of single inputs: the encoder, and what cannot be drawn."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from fusionscope.report._samples_drawing import drawing, png


def test_an_image_survives_the_encoder() -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    data = png(pixels)
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert (width, height, depth, kind) == (13, 11, 8, 2)
    start = data.index(b"IDAT") + 4
    size = struct.unpack(">I", data[start - 8 : start - 4])[0]
    rows = np.frombuffer(zlib.decompress(data[start : start + size]), np.uint8).reshape(11, 1 + 39)
    assert not rows[:, 0].any()
    assert (rows[:, 1:].reshape(11, 13, 3) == pixels).all()
    assert struct.unpack(">I", data[start + size : start + size + 4])[0] == zlib.crc32(data[start - 4 : start + size])


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert drawing(np.zeros((2, 3, 5, 7), np.float32), "red", "x") == ""
    assert drawing(np.zeros((0, 3), np.float32), "red", "x") == ""
    assert drawing(np.full((5, 2), np.nan), "red", "x") == ""
    assert drawing(np.array(["a"]), "red", "x") == ""
    holes = drawing(np.array([[0.0], [1.0], [np.nan], [2.0], [3.0]]), "red", "x")
    assert holes.count("M") == 2
    assert drawing(np.zeros(1000), "red", "x").count("<rect") == 64
    assert '"><b>' not in drawing(np.zeros((3, 5), np.uint8), "red", '"><b>')
