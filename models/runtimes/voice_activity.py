"""Runtime ``voice-activity``: where in a recording somebody speaks. TorchScript of silero-vad, without torchaudio."""

import warnings
from collections.abc import Sequence

import torch

from affinity.errors import LoadFailed
from models.entry import ModelEntry
from models.inputs import SAMPLE_RATE, VoiceInput
from models.runtimes.host_weights import TorchCore
from models.runtimes.speech import WINDOW, speech_stretches
from models.runtimes.torch_device import prepare, release
from models.sources import find_files

__all__ = ["load", "release"]


def load(entry: ModelEntry, device: str) -> "VoiceActivity":
    """Read the TorchScript file onto the device."""
    prepare(device)
    file, *others = find_files(entry.source, entry.folder, "*.jit")
    if others:
        raise LoadFailed(f"source {entry.source!r} holds several .jit files; name one of them")
    try:
        with warnings.catch_warnings():
            # torch deprecates TorchScript for new models; this one is published as such.
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]  # torch types it not
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error):
            raise
        raise LoadFailed(f"{file} is truncated or damaged ({str(error).splitlines()[0]}); copy it again") from error
    return VoiceActivity(network.eval(), device)


class VoiceActivity(TorchCore):
    """Recordings of a batch advance side by side, one window at a time: the network carries its state along."""

    _network: torch.jit.ScriptModule

    def leave_device(self) -> None:
        """As every network, but first without the state that the last recordings left on the device."""
        self._network.reset_states()
        super().leave_device()

    @torch.inference_mode()
    def forward(self, inputs: Sequence[VoiceInput]) -> Sequence[object]:
        waves = [torch.frombuffer(bytearray(job.pcm16_base64), dtype=torch.int16) for job in inputs]
        probabilities = self._probabilities(waves)
        return [
            _result(probabilities[row, : -(-len(wave) // WINDOW)].tolist(), job.threshold, len(wave) / SAMPLE_RATE)
            for row, (wave, job) in enumerate(zip(waves, inputs, strict=True))
        ]

    def _probabilities(self, waves: Sequence[torch.Tensor]) -> torch.Tensor:
        """One row per recording, one probability per window; rows of shorter ones end in those of silence."""
        windows = -(-max(map(len, waves)) // WINDOW)
        samples = torch.zeros(len(waves), windows * WINDOW, dtype=torch.int16)
        for row, wave in enumerate(waves):
            samples[row, : len(wave)] = wave
        # Without it the state of the last batch leaks into the first words of this one.
        self._network.reset_states()
        steps = torch.split(samples.to(self._device), WINDOW, dim=1)
        # Collected on the device: asking for each number would make the GPU wait for Python 31 times a second of sound.
        return torch.cat([self._network(step.float() / 32768, SAMPLE_RATE) for step in steps], dim=1).cpu()


def _result(probabilities: Sequence[float], threshold: float, total_s: float) -> dict[str, object]:
    stretches = speech_stretches(probabilities, threshold, total_s)
    return {
        "speech": [{"start_s": round(start_s, 3), "end_s": round(end_s, 3)} for start_s, end_s in stretches],
        "speech_s": round(sum((end_s - start_s for start_s, end_s in stretches), 0.0), 3),
    }
