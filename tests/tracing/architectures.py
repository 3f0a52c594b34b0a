"""What the source code of published multimodal models says about where their modalities meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .architecture_models import (
    Built,
    blip,
    bridge_tower,
    clap,
    clip,
    flava,
    llava,
    lxmert,
    perceiver,
    siglip,
    vilt,
    visual_bert,
)


@dataclass(frozen=True)
class Meeting:
    """Where modalities first meet, as the model's source code says.

    Attributes:
        parent: the module in whose forward they meet; "" is the model.
        before: the first call that takes what came of it; "" where it is the model's output.
        kind: "join" where they lie side by side afterwards, "mix" where they are combined.
        mixed_in: for a join, the module in whose forward they are combined.
    """

    parent: str
    before: str
    kind: str
    mixed_in: str = ""


@dataclass(frozen=True, eq=False)
class Architecture:
    """A model, what to run it on, and what its source code says about it.

    Attributes:
        build: gives the model in eval mode, a batch of ``B`` samples and the groups of keys that are its modalities.
        meetings: where modalities first meet.
        streams: for each modality, the first and the last leaf call that sees it alone, or None where there is none.
        rows_interact: the model's output for one sample depends on the other samples.
    """

    name: str
    build: Callable[[], Built]
    meetings: tuple[Meeting, ...]
    streams: Mapping[str, tuple[str, str] | None]
    rows_interact: bool = False


ARCHITECTURES = (
    Architecture(
        "CLIP",
        clip,
        (Meeting("", "", "mix"),),
        {
            "image": ("vision_model.embeddings.patch_embedding#0", "visual_projection#0"),
            "text": ("text_model.embeddings.token_embedding#0", "text_projection#0"),
        },
        rows_interact=True,
    ),
    Architecture(
        "SigLIP",
        siglip,
        (Meeting("", "", "mix"),),
        {
            "image": ("vision_model.embeddings.patch_embedding#0", "vision_model.head.mlp.fc2#0"),
            "text": ("text_model.embeddings.token_embedding#0", "text_model.head#0"),
        },
        rows_interact=True,
    ),
    Architecture(
        "CLAP",
        clap,
        (Meeting("", "", "mix"),),
        {
            "audio": ("audio_model.audio_encoder.batch_norm#0", "audio_projection.linear2#0"),
            "text": ("text_model.embeddings.word_embeddings#0", "text_projection.linear2#0"),
        },
        rows_interact=True,
    ),
    Architecture(
        "ViLT",
        vilt,
        (
            Meeting(
                "embeddings",
                "encoder.layer.0.layernorm_before#0",
                "join",
                "encoder.layer.0.attention.attention",
            ),
        ),
        {
            "image": ("embeddings.patch_embeddings.projection#0", "embeddings.dropout#0"),
            "text": ("embeddings.text_embeddings.word_embeddings#0", "embeddings.text_embeddings.dropout#0"),
        },
    ),
    Architecture(
        "VisualBERT",
        visual_bert,
        (Meeting("embeddings", "embeddings.LayerNorm#0", "join", "encoder.layer.0.attention.self"),),
        {
            "image": ("embeddings.visual_projection#0", "embeddings.visual_projection#0"),
            "text": ("embeddings.word_embeddings#0", "embeddings.word_embeddings#0"),
        },
    ),
    Architecture(
        "FLAVA",
        flava,
        (
            Meeting(
                "",
                "multimodal_model.encoder.layer.0.layernorm_before#0",
                "join",
                "multimodal_model.encoder.layer.0.attention.attention",
            ),
        ),
        {
            "image": ("image_model.embeddings.patch_embeddings.projection#0", "image_to_mm_projection#0"),
            "text": ("text_model.embeddings.word_embeddings#0", "text_to_mm_projection#0"),
        },
    ),
    Architecture(
        "LXMERT",
        lxmert,
        (
            Meeting(
                "encoder.x_layers.0.visual_attention.att", "encoder.x_layers.0.visual_attention.att.dropout#0", "mix"
            ),
            Meeting(
                "encoder.x_layers.0.visual_attention.att", "encoder.x_layers.0.visual_attention.att.dropout#1", "mix"
            ),
        ),
        {
            "image": ("encoder.visn_fc.visn_fc#0", "encoder.x_layers.0.visual_attention.att.query#1"),
            "text": ("embeddings.word_embeddings#0", "encoder.x_layers.0.visual_attention.att.value#1"),
        },
    ),
    Architecture(
        "BridgeTower",
        bridge_tower,
        (
            Meeting(
                "cross_modal_text_layers.0.crossattention.self",
                "cross_modal_text_layers.0.crossattention.output.dense#0",
                "mix",
            ),
            Meeting(
                "cross_modal_image_layers.0.crossattention.self",
                "cross_modal_image_layers.0.crossattention.output.dense#0",
                "mix",
            ),
        ),
        {
            "image": ("vision_model.visual.embeddings.patch_embedding#0", "cross_modal_image_transform#1"),
            "text": ("text_model.embeddings.word_embeddings#0", "cross_modal_text_transform#1"),
        },
    ),
    Architecture(
        "BLIP",
        blip,
        (
            Meeting(
                "text_encoder.encoder.layer.0.crossattention.self",
                "text_encoder.encoder.layer.0.crossattention.self.dropout#0",
                "mix",
            ),
        ),
        {
            "image": (
                "vision_model.embeddings.patch_embedding#0",
                "text_encoder.encoder.layer.1.crossattention.self.value#0",
            ),
            "text": (
                "text_encoder.embeddings.word_embeddings#0",
                "text_encoder.encoder.layer.0.crossattention.self.query#0",
            ),
        },
    ),
    Architecture(
        "Perceiver",
        perceiver,
        (
            Meeting(
                "input_preprocessor",
                "encoder.cross_attention.attention.self.layernorm2#0",
                "join",
                "encoder.cross_attention.attention.self",
            ),
        ),
        {
            "audio": None,
            "image": (
                "input_preprocessor.modalities.image.convnet_1x1#0",
                "input_preprocessor.modalities.image.convnet_1x1#0",
            ),
            "text": (
                "input_preprocessor.modalities.text.embeddings#0",
                "input_preprocessor.modalities.text.embeddings#0",
            ),
        },
    ),
    Architecture(
        "LLaVA",
        llava,
        (
            Meeting(
                "model",
                "model.language_model.layers.0.input_layernorm#0",
                "join",
                "model.language_model.layers.0.self_attn",
            ),
        ),
        {
            "image": ("model.vision_tower.embeddings.patch_embedding#0", "model.multi_modal_projector.linear_2#0"),
            "text": ("model.language_model.embed_tokens#0", "model.language_model.embed_tokens#0"),
        },
    ),
)
