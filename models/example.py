"""A model of one's own in under 30 lines: exclusive or, by a network with one hidden layer. See docs/models.md."""

import torch


class TinyMlp(torch.nn.Module):
    """Input ``{"bits": [0, 1]}`` (each 0 to 1), result ``{"xor": 1.0}``."""

    def __init__(self, hidden: int = 2) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(2, hidden)
        self.out = torch.nn.Linear(hidden, 1)

    def validate(self, value: dict[str, object]) -> None:
        bits = value.get("bits")
        if not (isinstance(bits, list) and len(bits) == 2 and all(isinstance(b, int | float) for b in bits)):
            raise ValueError("bits must be a list of two numbers")

    def predict(self, inputs: list[dict[str, list[float]]]) -> list[dict[str, float]]:
        bits = torch.tensor([job["bits"] for job in inputs], dtype=torch.float32, device=self.out.weight.device)
        answers = self.out(torch.relu(self.hidden(bits))).squeeze(1)
        return [{"xor": answer} for answer in answers.tolist()]
