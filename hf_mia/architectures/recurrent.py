"""The next-word model of AuditMI as a `PreTrainedModel`: embedding, one recurrent layer, untied output.

Song and Shmatikov, KDD 2019. Importing this module registers it with transformers' Auto classes.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
    """The sizes of a recurrent language model; `cell` is "lstm" or "gru"."""

    model_type = "hf_mia_recurrent"

    def __init__(
        self,
        vocab_size: int = 5000,
        embedding_size: int = 256,
        hidden_size: int = 128,
        dropout: float = 0.25,
        cell: str = "lstm",
        **kwargs: object,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {sorted(CELLS)}, but is {cell!r}.")
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.cell = cell
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)  # type: ignore[arg-type]


class RecurrentPreTrainedModel(PreTrainedModel):  # type: ignore[misc, unused-ignore]
    """What both recurrent classes share: how weights begin, and where the base model hangs."""

    config_class: type[PretrainedConfig] = RecurrentConfig
    base_model_prefix = "model"

    def _init_weights(self, module: nn.Module) -> None:
        """Keras's defaults, which the paper's models began with; weights that a checkpoint filled are left alone."""
        for name, weight in module.named_parameters(recurse=False):
            if getattr(weight, "_is_hf_initialized", False):
                continue
            if isinstance(module, nn.Embedding):
                nn.init.uniform_(weight, -0.05, 0.05)
            elif "bias" in name:
                nn.init.zeros_(weight)
                if name == "bias_ih_l0" and isinstance(module, nn.LSTM):
                    nn.init.ones_(weight.data[module.hidden_size : 2 * module.hidden_size])  # the forget gate
            elif "weight_hh" in name:
                nn.init.orthogonal_(weight)
            else:
                nn.init.xavier_uniform_(weight)


class RecurrentModel(RecurrentPreTrainedModel):
    """Token ids (rows, length) to hidden states (rows, length, hidden_size); the state starts at zero in each row."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.cell = CELLS[config.cell](config.embedding_size, config.hidden_size, batch_first=True)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutput:
        """Padding belongs on the right, where a causal model does not look; `attention_mask` is not needed."""
        hidden, _ = self.cell(self.dropout(self.embedding(input_ids)))
        return BaseModelOutput(last_hidden_state=self.dropout(hidden))


class RecurrentForCausalLM(RecurrentPreTrainedModel):
    """Token ids (rows, length) to the next word's logits (rows, length, vocab_size)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> CausalLMOutput:
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids).last_hidden_state))


AutoConfig.register("hf_mia_recurrent", RecurrentConfig, exist_ok=True)
AutoModel.register(RecurrentConfig, RecurrentModel, exist_ok=True)
AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM, exist_ok=True)
