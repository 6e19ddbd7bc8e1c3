"""Build PyTorch programs that drop, with random weights: a model, its inputs, and a step of training.

The question `torch-models` measures them. Models of other packages come from configurations; nothing is downloaded. All
dropout probabilities are those of the packages' defaults or, where these are zero, 0.1. A program that needs a package
that is not installed raises ImportError when it is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

P = 0.1
BATCH, LENGTH, WIDTH, HEADS, LAYERS, VOCABULARY = 4, 128, 256, 4, 4, 1000


@dataclass
class Program:
    """Hold a model and its inputs.

    Attributes
    ----------
    model : Module
        In training mode. It returns a loss, or an object with the attribute `loss`.
    inputs : dict of str to Tensor
        The named arguments of its forward pass.

    """

    model: nn.Module
    inputs: dict[str, Tensor]

    def __post_init__(self) -> None:
        """Make an optimizer for all weights that are trained."""
        self.model.train()
        # A rate so small that no weight leaves its range, however many steps are timed.
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-6)
        self.without_dropout = [(values, name, 0.0) for values, name, _ in probabilities(self.model)]
        self.with_dropout = probabilities(self.model)

    def loss(self, model: Callable[..., Any] | None = None) -> Tensor:
        """Run the forward pass, of the model or of a compiled form of it, and return the loss."""
        output = (model or self.model)(**self.inputs)
        return output if isinstance(output, Tensor) else output.loss

    def step(self, model: Callable[..., Any] | None = None) -> Tensor:
        """Make a training step, and return its loss."""
        self.optimizer.zero_grad()
        loss = self.loss(model)
        loss.backward()
        self.optimizer.step()
        return loss

    def drop(self, does: bool) -> None:
        """Give all probabilities of dropping their values back, or set them to 0."""
        for values, name, p in self.with_dropout if does else self.without_dropout:
            values[name] = p


def probabilities(model: nn.Module) -> list[tuple[dict[str, Any], str, float]]:
    """Return where the modules of a model keep probabilities of dropping: a dict, the key and the value."""
    found = []
    for module in model.modules():
        values = vars(module)
        is_dropout = "drop" in type(module).__name__.lower()
        for name, value in values.items():
            if isinstance(value, float) and 0.0 < value < 1.0 and ("drop" in name or (is_dropout and name == "p")):
                found.append((values, name, value))
    return found


def tokens(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    """Return random tokens of a text."""
    return torch.randint(3, VOCABULARY, (batch, length))


def bert() -> Program:
    """BERT for masked language modelling, with its default probabilities."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LENGTH,
    )
    ids = tokens()
    return Program(BertForMaskedLM(config), {"input_ids": ids, "labels": ids})


def gpt2() -> Program:
    """GPT-2, with its default probabilities."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=LENGTH,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    ids = tokens()
    return Program(GPT2LMHeadModel(config), {"input_ids": ids, "labels": ids})


def t5() -> Program:
    """T5, with its default probability; encoder and decoder have half of the layers each."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=4 * WIDTH,
        num_layers=LAYERS // 2,
        num_heads=HEADS,
        decoder_start_token_id=0,
        use_cache=False,
    )
    ids = tokens()
    return Program(T5ForConditionalGeneration(config), {"input_ids": ids, "labels": ids})


def vit() -> Program:
    """Return transformers' ViT on 64 x 64 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=64,
        patch_size=8,
        num_labels=10,
        hidden_dropout_prob=P,
        attention_probs_dropout_prob=P,
    )
    inputs = {"pixel_values": torch.randn(2 * BATCH, 3, 64, 64), "labels": torch.randint(10, (2 * BATCH,))}
    return Program(ViTForImageClassification(config), inputs)


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=688,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        attention_dropout=P,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def llama() -> Program:
    """Llama, which drops in its attention."""
    ids = tokens()
    return Program(_llama(), {"input_ids": ids, "labels": ids})


def lora() -> Program:
    """Llama with adapters of peft, which drop their inputs, on the four matrices of attention."""
    from peft import LoraConfig, get_peft_model

    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=P, target_modules=names, task_type="CAUSAL_LM")
    ids = tokens()
    return Program(get_peft_model(_llama(), config), {"input_ids": ids, "labels": ids})


def whisper() -> Program:
    """Whisper on 256 frames, with dropout in all places that it has; encoder and decoder share the layers."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=LAYERS // 2,
        decoder_layers=LAYERS // 2,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=LENGTH,
        max_target_positions=LENGTH,
        dropout=P,
        attention_dropout=P,
        activation_dropout=P,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    features = torch.randn(BATCH, config.num_mel_bins, 2 * LENGTH)
    labels = tokens(length=LENGTH // 2)
    return Program(WhisperForConditionalGeneration(config), {"input_features": features, "labels": labels})


class Classifier(nn.Module):
    """A model and the loss of its classes.

    Parameters
    ----------
    model : Module
        Returns scores of classes.

    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy."""
        return functional.cross_entropy(self.model(x).flatten(0, -2), labels.flatten())


def timm_vit() -> Program:
    """Return timm's vision transformer on 64 x 64 pixels, with stochastic depth and dropout."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=64,
        patch_size=8,
        num_classes=10,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=HEADS,
        drop_rate=P,
        pos_drop_rate=P,
        proj_drop_rate=P,
        attn_drop_rate=P,
        drop_path_rate=P,
    )
    inputs = {"x": torch.randn(2 * BATCH, 3, 64, 64), "labels": torch.randint(10, (2 * BATCH,))}
    return Program(Classifier(model), inputs)


class LanguageModel(nn.Module):
    """Three LSTM layers, with dropout after the embedding and after each layer (Zaremba et al., 2014).

    Parameters
    ----------
    p : float
        The probability of dropping.

    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 3, dropout=p)
        self.dropout = nn.Dropout(p)
        self.scores = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the next tokens."""
        y, _ = self.lstm(self.dropout(self.embedding(x)))
        return self.scores(self.dropout(y))


def lstm() -> Program:
    """Return an LSTM language model with p = 0.5, on 20 texts of 35 tokens."""
    ids = tokens(35, 20)
    return Program(Classifier(LanguageModel(0.5)), {"x": ids, "labels": ids})


class GraphNetwork(nn.Module):
    """A graph convolutional network with `F.dropout` (Kipf and Welling, 2017), on a random graph of Cora's size.

    Parameters
    ----------
    p : float
        The probability of dropping.

    """

    def __init__(self, p: float) -> None:
        super().__init__()
        n_nodes, n_edges, n_features, n_hidden, n_classes = 2708, 10556, 1433, 64, 7
        self.dropout = p
        self.first = nn.Linear(n_features, n_hidden, bias=False)
        self.second = nn.Linear(n_hidden, n_classes, bias=False)
        edges = torch.cat([torch.randint(n_nodes, (2, n_edges)), torch.arange(n_nodes).expand(2, -1)], 1)
        degrees = torch.bincount(edges[0], minlength=n_nodes).float()
        weights = (degrees[edges[0]] * degrees[edges[1]].clamp(min=1)).rsqrt()
        neighbours = torch.sparse_coo_tensor(edges, weights, (n_nodes, n_nodes)).coalesce()
        self.register_buffer("neighbours", neighbours, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the nodes' classes."""
        x = functional.dropout(x, self.dropout, self.training)
        x = functional.relu(torch.sparse.mm(self.neighbours, self.first(x)))
        x = functional.dropout(x, self.dropout, self.training)
        return torch.sparse.mm(self.neighbours, self.second(x))


def graph_network() -> Program:
    """Return a graph network that drops half of the features of each node, which are words of a text."""
    features = (torch.rand(2708, 1433) < 0.0127).float()
    features /= features.sum(1, keepdim=True).clamp(min=1)
    return Program(Classifier(GraphNetwork(0.5)), {"x": features, "labels": torch.randint(7, (2708,))})


class Perceptron(nn.Module):
    """784-512-512-10 with `F.dropout` after both hidden layers.

    Parameters
    ----------
    p : float
        The probability of dropping.

    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = p
        self.layers = nn.ModuleList([nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        for layer in self.layers[:-1]:
            x = functional.dropout(functional.relu(layer(x)), self.dropout, self.training)
        return self.layers[-1](x)


def perceptron() -> Program:
    """Return 784-512-512-10 with p = 0.5 and batches of 128."""
    return Program(Classifier(Perceptron(0.5)), {"x": torch.randn(128, 784), "labels": torch.randint(10, (128,))})


def sequential() -> Program:
    """Return the same network as an `nn.Sequential` with `nn.Dropout`."""
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
    model = Classifier(nn.Sequential(*layers, nn.Linear(512, 10)))
    return Program(model, {"x": torch.randn(128, 784), "labels": torch.randint(10, (128,))})


PROGRAMS: dict[str, Callable[[], Program]] = {
    "BERT": bert,
    "GPT-2": gpt2,
    "T5": t5,
    "ViT": vit,
    "Llama": llama,
    "Whisper": whisper,
    "LoRA on Llama": lora,
    "timm ViT": timm_vit,
    "LSTM": lstm,
    "graph network": graph_network,
    "MLP": perceptron,
    "MLP of modules": sequential,
}
