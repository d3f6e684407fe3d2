"""The repository's root is the package: its folders become lora_loop.core and so on."""

from setuptools import find_packages, setup

ROOMS = ["core*", "extension*"]

setup(
    packages=[
        "lora_loop",
        *(f"lora_loop.{name}" for name in find_packages(include=["core*", "extension*"])),
    ],
    package_dir={"lora_loop": "."},
    package_data={
        "lora_loop": ["LICENSE", "NOTICE", "presets/*.json", "style.css", "javascript/*.js"],
        "lora_loop.core.demo": ["assets/*", "dataset/*/*"],
        "lora_loop.core.preview": ["assets/*"],
        "lora_loop.core.models": ["tokenizer_data/*"],
    },
)
