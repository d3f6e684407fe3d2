import pytest

from lora_loop.core.config import DatasetConfig, OutputConfig, Recipe
from lora_loop.core.errors import FileError
from lora_loop.extension.hosts.protocol import Folders
from lora_loop.extension.places import free_name, network_file, placed, require_allowed


@pytest.fixture
def folders(tmp_path):
    for name in ("networks", "opened", "secret"):
        (tmp_path / name).mkdir()
    return Folders(
        networks=tmp_path / "networks",
        data=tmp_path / "data",
        allowed=(tmp_path / "networks", tmp_path / "opened"),
    )


def test_folders_below_an_opened_one_are_allowed(folders, tmp_path):
    assert require_allowed(folders, "x", str(tmp_path / "opened" / "a" / "b"))
    assert require_allowed(folders, "x", str(tmp_path / "opened"))
    assert require_allowed(folders, "x", "pictures") == tmp_path / "networks" / "pictures"


@pytest.mark.parametrize(
    "path",
    ["{0}/secret", "{0}/opened/../secret", "/etc", "../secret", "~", "", "a\0b", "{0}/openedx"],
)
def test_all_others_are_refused(folders, tmp_path, path):
    with pytest.raises(FileError, match=r"dataset\.folder"):
        require_allowed(folders, "dataset.folder", path.format(tmp_path))


def test_a_link_out_of_an_opened_folder_is_followed_first(folders, tmp_path):
    (tmp_path / "opened" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(FileError, match="lies outside"):
        require_allowed(folders, "x", str(tmp_path / "opened" / "link"))


def test_the_owner_alone_may_name_any_folder(tmp_path):
    own = Folders(networks=tmp_path, data=tmp_path)
    assert str(require_allowed(own, "x", "/etc")) == "/etc"


def test_every_path_of_a_recipe_is_checked(folders, tmp_path):
    recipe = Recipe(
        dataset=DatasetConfig(folder=str(tmp_path / "opened")),
        output=OutputConfig(folder=str(tmp_path / "networks")),
    )
    assert placed(recipe, folders) == recipe
    outside = Recipe(
        dataset=DatasetConfig(folder=str(tmp_path / "opened")), output=OutputConfig(folder="/tmp")
    )
    with pytest.raises(FileError, match=r"output\.folder"):
        placed(outside, folders)


@pytest.mark.parametrize("name", ["../secret/x.safetensors", "x.txt", "gone.safetensors", "/etc"])
def test_only_network_files_of_the_list_are_opened(folders, tmp_path, name):
    (tmp_path / "secret" / "x.safetensors").touch()
    (folders.networks / "x.txt").touch()
    with pytest.raises(FileError, match="no network file"):
        network_file(folders, name)


def test_a_file_of_the_list(folders):
    (folders.networks / "x.safetensors").touch()
    assert network_file(folders, "x.safetensors").name == "x.safetensors"


def test_free_names_pass_over_files_and_stopped_trainings(tmp_path):
    assert free_name(tmp_path, "momo") == "momo"
    (tmp_path / "momo.safetensors").touch()
    (tmp_path / "momo-2.resume-state").touch()
    assert free_name(tmp_path, "momo") == "momo-3"
