"""hf: reads and writes published weights, in safetensors, without torch or remote code."""
