"""hf — published weights and ours: tables read in both directions, safetensors part by part, no torch, no remote code."""
