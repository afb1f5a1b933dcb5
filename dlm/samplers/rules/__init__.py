"""samplers.rules — how one denoising step reveals or changes tokens; one file for each rule."""
