"""Small random-weight transformers models, each with a batch and its modalities.

Sizes are odd and differ from each other and from multiples of the batch size where the architecture allows it, so that
no axis can be taken for another. ``transformers`` is imported by the builders only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

B, VOCABULARY = 5, 97
BOS, PAD, EOS, IMAGE_TOKEN = 0, 1, 2, 96
LENGTHS = torch.tensor([11, 7, 9, 6, 8])
Modalities = dict[str, str | list[str]]
Built = tuple[nn.Module, dict[str, Tensor], Modalities]
IMAGE_TEXT: Modalities = {"image": "pixel_values", "text": ["input_ids", "attention_mask"]}


def builder(build: Callable[[], Built]) -> Callable[[], Built]:
    """Make ``build`` give the same weights and batch each time, with the model in eval mode."""

    @functools.wraps(build)
    def seeded() -> Built:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, batch, modalities = build()
        return model.eval(), batch, dict(modalities)

    return seeded


def text(lengths: Tensor = LENGTHS, eos: int = EOS) -> dict[str, Tensor]:
    """Rows of words that differ in content and length: a start token, words, an end token, padding."""
    words = int(lengths.max())
    ids = torch.randint(3, IMAGE_TOKEN - 1, (B, words))
    mask = (torch.arange(words) < lengths[:, None]).long()
    ids[:, 0], ids[torch.arange(B), lengths - 1] = BOS, eos
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


def image() -> dict[str, Tensor]:
    """Noise images."""
    return {"pixel_values": torch.randn(B, 3, 24, 24)}


@builder
def clip() -> Built:
    """Two towers whose pooled features meet in a matrix of all pairs."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"projection_dim": 19, "intermediate_size": 37, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "max_position_embeddings": 13,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": 95,
        },
        vision_config={**shared, "hidden_size": 36, "num_attention_heads": 4, "image_size": 24, "patch_size": 6},
        projection_dim=19,
    )
    return CLIPModel(config), image() | text(eos=95), IMAGE_TEXT


@builder
def siglip() -> Built:
    """Like CLIP, with attention pooling of the image; its text tower reads the last position."""
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 36,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 13,
            "projection_size": 28,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
        vision_config={
            "hidden_size": 28,
            "intermediate_size": 41,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 24,
            "patch_size": 8,
        },
    )
    return SiglipModel(config), image() | text(), IMAGE_TEXT


@builder
def clap() -> Built:
    """An audio tower with shifted windows on the batch axis, a text tower, a matrix of all pairs."""
    from transformers import ClapConfig, ClapModel

    config = ClapConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 17,
            "projection_dim": 19,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
        audio_config={
            "window_size": 2,
            "num_mel_bins": 8,
            "spec_size": 32,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "depths": [2, 1],
            "num_attention_heads": [2, 4],
            "num_hidden_layers": 2,
            "patch_embeds_hidden_size": 12,
            "hidden_size": 24,
            "projection_dim": 19,
        },
        projection_dim=19,
    )
    batch = {"input_features": torch.randn(B, 1, 127, 8)} | text()
    modalities = {"audio": "input_features", "text": ["input_ids", "attention_mask"]}
    return ClapModel(config), batch, modalities


@builder
def vilt() -> Built:
    """Words and patches in one sequence; the patches are shuffled by the global random generator."""
    from transformers import ViltConfig, ViltModel

    config = ViltConfig(
        vocab_size=VOCABULARY,
        hidden_size=28,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=13,
        image_size=24,
        patch_size=6,
        pad_token_id=PAD,
    )
    batch = image() | {"pixel_mask": torch.ones(B, 24, 24, dtype=torch.long)} | text()
    return ViltModel(config), batch, IMAGE_TEXT | {"image": ["pixel_values", "pixel_mask"]}


@builder
def visual_bert() -> Built:
    """Words and region features in one BERT."""
    from transformers import VisualBertConfig, VisualBertModel

    config = VisualBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        visual_embedding_dim=18,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=13,
    )
    visual = {
        "visual_embeds": torch.randn(B, 9, 18),
        "visual_attention_mask": (torch.arange(9) < torch.tensor([9, 8, 9, 6, 7])[:, None]).long(),
    }
    modalities = {"image": ["visual_embeds", "visual_attention_mask"], "text": ["input_ids", "attention_mask"]}
    return VisualBertModel(config), visual | text(), modalities


@builder
def flava() -> Built:
    """An encoder per modality, then a joint encoder."""
    from transformers import FlavaConfig, FlavaModel

    layers = {"num_hidden_layers": 2, "intermediate_size": 37}
    config = FlavaConfig(
        image_config={**layers, "hidden_size": 36, "num_attention_heads": 4, "image_size": 24, "patch_size": 6},
        text_config={
            **layers,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 13,
            "pad_token_id": PAD,
        },
        multimodal_config={**layers, "num_hidden_layers": 1, "hidden_size": 28, "num_attention_heads": 4},
        hidden_size=28,
        projection_dim=19,
        init_codebook=False,
    )
    batch = image() | {"bool_masked_pos": torch.rand(B, 16) < 0.3} | text()
    return FlavaModel(config), batch, IMAGE_TEXT | {"image": ["pixel_values", "bool_masked_pos"]}


@builder
def lxmert() -> Built:
    """An encoder per modality, then layers in which both attend to each other through one shared attention."""
    from transformers import LxmertConfig, LxmertModel

    config = LxmertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=37,
        max_position_embeddings=13,
        l_layers=2,
        r_layers=1,
        x_layers=2,
        visual_feat_dim=18,
        visual_pos_dim=4,
    )
    visual = {"visual_feats": torch.randn(B, 9, 18), "visual_pos": torch.rand(B, 9, 4)}
    modalities = {"image": ["visual_feats", "visual_pos"], "text": ["input_ids", "attention_mask"]}
    return LxmertModel(config), visual | text(), modalities


@builder
def bridge_tower() -> Built:
    """Two towers with a bridge from each of their upper layers to a cross-modal encoder; the towers never stop."""
    from transformers import BridgeTowerConfig, BridgeTowerModel

    config = BridgeTowerConfig(
        hidden_size=64,  # a head per 64 channels
        num_attention_heads=4,
        num_hidden_layers=2,
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 17,
        },
        vision_config={"hidden_size": 64, "num_hidden_layers": 2, "image_size": 24, "patch_size": 6},
    )
    return BridgeTowerModel(config), image() | text(), IMAGE_TEXT


@builder
def blip() -> Built:
    """A text encoder that attends to the image in every layer, and a matching head."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    config = BlipConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "encoder_hidden_size": 36,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 13,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "sep_token_id": EOS,
        },
        vision_config={
            "hidden_size": 36,
            "intermediate_size": 41,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 24,
            "patch_size": 6,
            "initializer_range": 0.02,  # the default of 1e-10 leaves nothing of the image
        },
        image_text_hidden_size=19,
    )
    return BlipForImageTextRetrieval(config), image() | text(), IMAGE_TEXT


@builder
def perceiver() -> Built:
    """Three modalities as one array of tokens, read by latents; the audio is cut into patches, nothing more."""
    from transformers import PerceiverConfig, PerceiverModel
    from transformers.models.perceiver import modeling_perceiver as parts

    config = PerceiverConfig(
        num_latents=7,
        d_latents=24,
        d_model=19,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=3,
        num_cross_attention_heads=3,
        qk_channels=24,
        v_channels=24,
        vocab_size=VOCABULARY,
        max_position_embeddings=13,
        num_labels=4,
    )
    preprocessor = parts.PerceiverMultimodalPreprocessor(
        modalities={
            "audio": parts.PerceiverAudioPreprocessor(
                config,
                samples_per_patch=4,
                fourier_position_encoding_kwargs={"num_bands": 3, "max_resolution": (13,)},
            ),
            "image": parts.PerceiverImagePreprocessor(
                config,
                prep_type="conv1x1",
                spatial_downsample=2,
                out_channels=14,
                position_encoding_type="trainable",
                trainable_position_encoding_kwargs={"index_dims": 16, "num_channels": 9},
            ),
            "text": parts.PerceiverTextPreprocessor(config),
        },
        min_padding_size=2,
    )
    decoder = parts.PerceiverClassificationDecoder(
        config,
        num_channels=24,
        trainable_position_encoding_kwargs={"num_channels": 24, "index_dims": 1},
        use_query_residual=True,
    )
    model = PerceiverModel(config, input_preprocessor=preprocessor, decoder=decoder)
    batch = {
        "audio": torch.randn(B, 52, 1),
        "image": torch.randn(B, 3, 8, 8),
        "text": torch.randint(3, VOCABULARY, (B, 11)),
    }
    return model, batch, {name: name for name in batch}


@builder
def llava() -> Built:
    """A language model that reads projected patches at its image tokens, which every row has at the same places."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=36,
            intermediate_size=41,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=24,
            patch_size=6,
            projection_dim=19,
        ),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=32,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        ),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
    )
    words = text(LENGTHS + 16)
    words["input_ids"][:, 1:17] = IMAGE_TOKEN
    return LlavaForConditionalGeneration(config), image() | words, IMAGE_TEXT
