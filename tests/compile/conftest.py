from tests.compile.compiled_once import networks_folder  # noqa: F401 (a fixture)
