"""Compiles CUDA C++ to PTX: nvrtc.py LIBRARY SOURCE OPTION..."""

import ctypes
import glob
import os
import sys

library, source, *options = sys.argv[1:]
# The library opens its builtins by their bare name, which only works once they are loaded.
for builtins in sorted(glob.glob(os.path.join(os.path.dirname(library), "libnvrtc-builtins.so*"))):
    ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(library)
program = ctypes.c_void_p()


def text(name):
    size = ctypes.c_size_t()
    getattr(nvrtc, name + "Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(max(size.value, 1))
    getattr(nvrtc, name)(program, buffer)
    return buffer.value.decode(errors="replace")


with open(source, "rb") as file:
    code = file.read()
nvrtc.nvrtcCreateProgram(
    ctypes.byref(program), code, os.path.basename(source).encode(), 0, None, None
)
options = [option.encode() for option in options]
failed = nvrtc.nvrtcCompileProgram(
    program, len(options), (ctypes.c_char_p * len(options))(*options)
)
if failed:
    sys.exit(text("nvrtcGetProgramLog"))
print(text("nvrtcGetPTX"), end="")
