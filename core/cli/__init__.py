"""The command line: `lora-loop train|preview|bake|report|recipe|demo`."""
