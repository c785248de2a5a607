#!/usr/bin/env python3
"""Measures kernels of other libraries on the points of a ridgepoint campaign.

`ridgepoint peers DIR` runs it; by hand it is a filter: a request per line of JSON on standard
input, an answer per line on standard output, after a line that says what is installed. A request
is one round of one point by one peer: buffers are laid out anew, filled with the inputs that
ridgepoint draws, warmed up and timed, and an output is written to a file for ridgepoint to
check. docs/PEERS.md describes both.

The process that is started never opens the GPU. A child does the jobs; one that dies or hangs
costs its own job, and the next starts behind it.

    --site DIR   folder with libraries beside torch's: _vllm_fa3_C.abi3.so (FlashAttention-3),
                 _flashmla_C.abi3.so (FlashMLA), fi/flashinfer (FlashInfer); by default
                 $RIDGEPOINT_PEERS_SITE
    --fake       no library: made-up times and answers in plain Python, for tests
    --draw       only draws inputs: {"format", "dtype", "key", "bytes", ...} to hex digits
"""
import argparse
import collections
import ctypes
import gc
import importlib.metadata
import json
import math
import os
import queue
import struct
import subprocess
import sys
import threading
import time
import traceback

# Seconds that a child may take to start, and a job where the request does not say.
START_LIMIT_S = 240.0
JOB_LIMIT_S = 180.0
# Wanted length of a sample in seconds, and most launches of a graph beyond one per slot.
SAMPLE_S = 6e-3
GRAPH_LAUNCHES = 256
# A median of fewer samples has no interval.
FEWEST_SAMPLES = 6

torch = None  # imported by the child alone


# ---------------------------------------------------------------------------------------------
# Inputs, as src/data.rs makes them. All arithmetic is on signed 64-bit integers that wrap, with
# the operators that torch's int64 tensors and `Words` share.
# ---------------------------------------------------------------------------------------------
def signed(x):
    """The signed 64-bit integer with the low bits of x."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


class Words:
    """Plain Python integers with the operators of an int64 tensor."""

    def __init__(self, values):
        self.values = [signed(v) for v in values]

    def _with(self, other, f):
        if isinstance(other, Words):
            return Words([f(a, b) for a, b in zip(self.values, other.values)])
        return Words([f(a, other) for a in self.values])

    def __xor__(self, other):
        return self._with(other, lambda a, b: a ^ b)

    def __and__(self, other):
        return self._with(other, lambda a, b: a & b)

    def __or__(self, other):
        return self._with(other, lambda a, b: a | b)

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    def __rshift__(self, other):
        return self._with(other, lambda a, b: a >> b)

    def __mod__(self, other):
        return self._with(other, lambda a, b: a % b)

    def __lt__(self, other):
        return self._with(other, lambda a, b: int(a < b))

    def abs(self):
        return Words([abs(a) for a in self.values])


class PlainArrays:
    """What the generator needs beside operators, without any library."""

    @staticmethod
    def arange(first, end):
        return Words(range(first, end))

    @staticmethod
    def take(table, index):
        return Words([table[i] for i in index.values])

    @staticmethod
    def f32_bits(x, factor):
        """The bits of the f32 x * factor, which must be exact."""
        return Words([struct.unpack("<I", struct.pack("<f", v * factor))[0] for v in x.values])

    @staticmethod
    def where(is_first, a, b):
        pairs = zip(is_first.values, a.values, b.values)
        return Words([x if first else y for first, x, y in pairs])

    @staticmethod
    def write(to, first, draws):
        """Puts draws into a bytearray from byte 8 * first on."""
        text = b"".join(struct.pack("<q", v) for v in draws.values)
        to[8 * first:8 * first + len(text)] = text


class TorchArrays:
    """The same on a device of torch."""

    def __init__(self, device):
        self.device, self.tables = device, {}

    def arange(self, first, end):
        return torch.arange(first, end, dtype=torch.int64, device=self.device)

    def take(self, table, index):
        if id(table) not in self.tables:
            made = torch.tensor(table, dtype=torch.int64, device=self.device)
            self.tables[id(table)] = made
        return self.tables[id(table)][index]

    def f32_bits(self, x, factor):
        bits = (x.to(torch.float32) * factor).view(torch.int32).to(torch.int64)
        return bits & 0xFFFFFFFF

    @staticmethod
    def where(is_first, a, b):
        return torch.where(is_first, a, b)

    @staticmethod
    def write(to, first, draws):
        to.view(torch.int64)[first:first + draws.shape[0]] = draws


def logical_shift(x, bits):
    return x if bits == 0 else (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x):
    """The finaliser of splitmix64."""
    x = x ^ logical_shift(x, 30)
    x = x * signed(0xBF58476D1CE4E5B9)
    x = x ^ logical_shift(x, 27)
    x = x * signed(0x94D049BB133111EB)
    return x ^ logical_shift(x, 31)


def f32_word(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def f16_word(x):
    return struct.unpack("<H", struct.pack("<e", x))[0]


def signed_byte(b):
    return b - 256 if b > 127 else b


def signed_eleven(b):
    return b - 2048 if b > 1023 else b


# Codes of elements by the bits of their draw that count.
BF16 = [f32_word((2 * signed_byte(b) + 1) / 256) >> 16 for b in range(256)]
F16 = [f16_word(signed_eleven(b) / 1024) for b in range(2048)]
E4M3 = [b & 0x87 if (b >> 3) & 7 == 7 else b & 0xBF for b in range(256)]
HALF_SCALES = [f16_word((0.5 + 0.5 * abs(signed_eleven(b) / 1024)) / 8) for b in range(2048)]
POWER_SCALES = {fp4: [(124 if fp4 else 127) - (b & 1) for b in range(256)] for fp4 in (True, False)}
BYTE_SCALES = [0x18 | (b & 7) for b in range(256)]


def by_lane(draws, width, encode):
    """Applies `encode` to each stretch of `width` bits of draws."""
    mask, out = (1 << width) - 1, None
    for lane in range(64 // width):
        code = encode(logical_shift(draws, lane * width) & mask)
        code = code if lane == 0 else code * signed(1 << (lane * width))
        out = code if out is None else out | code
    return out


def signed_word(x):
    """A 32-bit pattern as a signed number, divided by 256 and rounded down."""
    return ((x & 0x7FFFFFFF) - (x & 0x80000000)) >> 8


def largest_scale(kind, dtype):
    if kind == "scales":
        return 1 / 128 if dtype == "int8" else 1.0
    return 256.0 if dtype == "int8" else 512.0


def encode(xp, tensor, draws, index):
    """Draws as the bytes of a tensor's format; `index` are their numbers."""
    kind, dtype = tensor["format"], tensor.get("dtype", "")
    if kind == "words" or (kind == "values" and dtype in ("int8", "int4", "fp4_e2m1")):
        return draws
    if kind == "values":
        if dtype == "f32":
            return by_lane(draws, 32, lambda x: xp.f32_bits(signed_word(x), 2.0**-23))
        if dtype == "fp8_e4m3":
            return by_lane(draws, 8, lambda x: xp.take(E4M3, x))
        table, shift = {"bf16": (BF16, 8), "f16": (F16, 5)}[dtype]
        return by_lane(draws, 16, lambda x: xp.take(table, x >> shift))
    if kind in ("scales", "inverse_scales"):
        factor = largest_scale(kind, dtype) * 2.0**-24
        return by_lane(draws, 32, lambda x: xp.f32_bits(signed_word(x).abs() + (1 << 23), factor))
    if kind == "half_scales":
        return by_lane(draws, 16, lambda x: xp.take(HALF_SCALES, x >> 5))
    if kind == "power_scales":
        return by_lane(draws, 8, lambda x: xp.take(POWER_SCALES[dtype == "fp4_e2m1"], x))
    if kind == "byte_scales":
        return by_lane(draws, 8, lambda x: xp.take(BYTE_SCALES, x))
    if kind == "latent_records":
        return encode_records(xp, tensor, draws, index)
    raise ValueError(f"no generator for tensors of {kind} {dtype}")


def encode_records(xp, tensor, draws, index):
    """Records of latents: fp8 elements, their scales in f32, then elements in bf16."""
    latent, rope = tensor["latent_dim"], tensor["rope_dim"]
    record = (latent + 4 * (latent // 128) + 2 * rope) // 8
    at = index % record
    of = lambda kind, dtype: encode(xp, {"format": kind, "dtype": dtype}, draws, index)
    rest = xp.where(at < latent // 8 + latent // 256, of("scales", "fp8_e4m3"), of("values", "bf16"))
    return xp.where(at < latent // 8, of("values", "fp8_e4m3"), rest)


def fill(xp, tensor, key, to, chunk):
    """Fills `to`, whose size is a multiple of 8 bytes, with a tensor drawn from `key`."""
    count = (tensor["bytes"] + 7) // 8
    for first in range(0, count, chunk):
        index = xp.arange(first, min(count, first + chunk))
        draws = mix(index * signed(0x9E3779B97F4A7C15) ^ signed(key))
        xp.write(to, first, encode(xp, tensor, draws, index))


def draw_bytes(tensor, key):
    """The bytes of a tensor in plain Python."""
    to = bytearray((tensor["bytes"] + 7) // 8 * 8)
    fill(PlainArrays, tensor, key, to, 1 << 12)
    return bytes(to[:tensor["bytes"]])


# ---------------------------------------------------------------------------------------------
# A problem laid out on the device
# ---------------------------------------------------------------------------------------------
class Skipped(Exception):
    """The peer cannot run this, and why."""


class Laid:
    """The buffers of all slots of a request."""

    def __init__(self, request):
        self.request, self.device = request, request["device"].split(":")[0]
        self.fields, self.slots = request["fields"], request["slots"]
        # Buffers of a round lie elsewhere than those of the one before.
        shift = 2 * 1024 * 1024 * (1 + 37 * request["round"])
        self.spacer = torch.empty(shift, dtype=torch.uint8, device=self.device)
        xp = TorchArrays(self.device)
        self.tensors = [self._slot(xp, slot) for slot in range(self.slots)]
        self.by_name = {tensor["name"]: tensor for tensor in request["tensors"]}

    def _slot(self, xp, slot):
        made = {}
        for tensor in self.request["tensors"]:
            size = (tensor["bytes"] + 7) // 8 * 8
            to = torch.empty(size, dtype=torch.uint8, device=self.device)
            if "files" in tensor:
                with open(tensor["files"][slot], "rb") as file:
                    held = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
                to[:tensor["bytes"]] = held.to(self.device)
            elif tensor["role"] == "input":
                fill(xp, tensor, tensor["keys"][slot], to, 1 << 23)
            else:
                to.fill_(0xFF)
            made[tensor["name"]] = to[:tensor["bytes"]]
        return made

    def count(self, name):
        """A field of the problem that is a number."""
        return int(self.fields[name])

    def get(self, slot, name, *shape, dtype=None):
        """A slot's tensor in a shape."""
        held = dtype or self.by_name[name]["dtype"]
        return self.tensors[slot][name].view(torch_dtype(held)).view(shape)

    def table(self, slot, *shape):
        return self.tensors[slot]["page_table"].view(torch.int32).view(*shape)

    def lengths(self):
        """Cached tokens of each request, int32 on the device."""
        return torch.tensor(self.request["lengths"], dtype=torch.int32, device=self.device)

    def each(self, make):
        """`make(slot)` of every slot."""
        return [make(slot) for slot in range(self.slots)]


def torch_dtype(name):
    names = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32,
             "fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8, "int4": torch.uint8}
    return names[name]


# ---------------------------------------------------------------------------------------------
# Libraries
# ---------------------------------------------------------------------------------------------
LOADED = {}
SITE = ""


def version_of(*packages):
    """The version of the first package that is installed; empty if none is."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def cublas():
    version = version_of("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12")
    return f"cuBLAS {version}" if version else f"cuBLAS of CUDA {torch.version.cuda}"


def of_torch(what):
    return f"torch {torch.__version__} {what}"


def load_library(name, what):
    """Loads a library of operators from the site folder."""
    if name not in LOADED:
        path = os.path.join(SITE, name)
        if not SITE or not os.path.exists(path):
            raise Skipped(f"{what} is not there: no {name} in the folder that --site, or "
                          "RIDGEPOINT_PEERS_SITE, names")
        torch.ops.load_library(path)
        LOADED[name] = True


def flashinfer_decode():
    """The module flashinfer.decode, from the site folder or as installed."""
    if "flashinfer" not in LOADED:
        folder = os.path.join(SITE, "fi")
        if SITE and os.path.isdir(folder):
            import types
            os.environ.setdefault("FLASHINFER_CUDA_ARCH_LIST", "9.0a")
            os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", os.path.join(SITE, "flashinfer_ws"))
            os.environ.setdefault("FLASHINFER_DISABLE_VERSION_CHECK", "1")
            sys.path.insert(0, folder)
            sys.path.append(os.path.join(folder, "deps"))
            # Without the package's own __init__, which needs everything.
            package = types.ModuleType("flashinfer")
            package.__path__ = [os.path.join(folder, "flashinfer")]
            sys.modules["flashinfer"] = package
        try:
            import flashinfer.decode as decode
        except ImportError as error:
            raise Skipped(f"FlashInfer is not there: {error}") from error
        LOADED["flashinfer"] = decode
    return LOADED["flashinfer"]


def flashinfer_name(what):
    return f"FlashInfer {version_of('flashinfer-python', 'flashinfer') or 'of the site folder'} {what}"


def workspace(name, size):
    """A zeroed buffer that a library keeps between calls."""
    if name not in LOADED:
        LOADED[name] = torch.zeros(size, dtype=torch.uint8, device="cuda")
    return LOADED[name]


# ---------------------------------------------------------------------------------------------
# Peers. Each takes the buffers and returns one call for each slot, which returns the slot's
# output in the order of ridgepoint's own, and what the implementation is.
# ---------------------------------------------------------------------------------------------
PEERS = {}


def peer(name):
    """Registers a peer by the name that is the kernel of its points."""
    def register(build):
        PEERS[name] = build
        return build
    return register


def gemm_shape(laid):
    return laid.count("m"), laid.count("n"), laid.count("k")


def plain_gemm(laid):
    """A [m, k], B transposed [k, n] and C [m, n] of each slot."""
    m, n, k = gemm_shape(laid)
    return laid.each(lambda s: (laid.get(s, "a", m, k), laid.get(s, "b", n, k).t(), laid.get(s, "c", m, n)))


def mm_calls(laid):
    return [lambda a=a, b=b, c=c: torch.mm(a, b, out=c) for a, b, c in plain_gemm(laid)]


@peer("torch_cublas")
def torch_cublas(laid):
    torch.backends.cuda.preferred_blas_library("cublas")
    return mm_calls(laid), of_torch(f"matmul ({cublas()})")


@peer("torch_cublaslt")
def torch_cublaslt(laid):
    torch.backends.cuda.preferred_blas_library("cublaslt")
    return mm_calls(laid), of_torch(f"matmul (cuBLASLt, {cublas()})")


@peer("torch_matmul")
def torch_matmul(laid):
    return mm_calls(laid), of_torch("matmul on the CPU")


@peer("torch_mv")
def torch_mv(laid):
    m, n, k = gemm_shape(laid)
    if m != 1:
        raise Skipped("torch.mv takes one row")
    torch.backends.cuda.preferred_blas_library("cublas")
    slots = laid.each(lambda s: (laid.get(s, "a", k), laid.get(s, "b", n, k), laid.get(s, "c", n)))
    calls = [lambda a=a, b=b, c=c: torch.mv(b, a, out=c) for a, b, c in slots]
    return calls, of_torch(f"mv ({cublas()})")


def scales_of(laid, slot, name, shape):
    """Scales in f32 in a shape: one for the tensor, or one for each row."""
    return laid.get(slot, name, *shape, dtype="f32")


@peer("torch_cublaslt_fp8")
def torch_cublaslt_fp8(laid):
    """Sums as the tensor cores keep them, in fewer bits than f32."""
    return scaled_mm(laid, True)


@peer("torch_cublaslt_fp8_exact")
def torch_cublaslt_fp8_exact(laid):
    """Sums that are added up in f32 every few products."""
    return scaled_mm(laid, False)


def scaled_mm(laid, fast):
    """W8A8 in fp8: a scale for each tensor, or one for each token and output feature."""
    m, n, k = gemm_shape(laid)
    out_dtype = torch_dtype(laid.fields["dtype"])
    by_row = not laid.fields["w_dtype"].endswith("_tensor")
    of_a, of_b = ((m, 1), (1, n)) if by_row else ((), ())

    def call(slot):
        a, b = laid.get(slot, "a", m, k), laid.get(slot, "b", n, k).t()
        scale_a = scales_of(laid, slot, "a_scales", of_a)
        scale_b = scales_of(laid, slot, "b_scales", of_b)
        return lambda: torch._scaled_mm(a, b, scale_a, scale_b, out_dtype=out_dtype, use_fast_accum=fast)
    note = ("scales by row" if by_row else "scales by tensor") + (", fast accumulation" if fast else "")
    return laid.each(call), of_torch(f"_scaled_mm fp8, {note} ({cublas()})")


@peer("torch_int_mm")
def torch_int_mm(laid):
    """W8A8 in int8: the product in int32, then its scales by elementwise kernels."""
    m, n, k = gemm_shape(laid)
    by_token = laid.by_name["a_scales"]["bytes"] > 4
    by_channel = laid.by_name["b_scales"]["bytes"] > 4

    def call(slot):
        a, b, c = laid.get(slot, "a", m, k), laid.get(slot, "b", n, k).t(), laid.get(slot, "c", m, n)
        scale_a = scales_of(laid, slot, "a_scales", (m, 1) if by_token else (1, 1))
        scale_b = scales_of(laid, slot, "b_scales", (1, n) if by_channel else (1, 1))
        product = torch.empty(m, n, dtype=torch.int32, device=laid.device)

        def run():
            torch._int_mm(a, b, out=product)
            scaled = torch.mul(product, scale_b)
            return torch.mul(scaled, scale_a, out=c)
        return run
    return laid.each(call), of_torch(f"_int_mm int8 and elementwise scales ({cublas()})")


def unshuffled(packed, n, k):
    """4-bit weights [n, k] as 0 to 15 from the order of src/weights.rs."""
    nibbles = torch.stack((packed & 15, packed >> 4), -1).reshape(n // 16, k // 64, 8, 4, 4, 2, 2, 2)
    # Row in tile = r8 * 8 + r7; column in tile = c16 * 16 + c4 * 4 + c2 * 2 + c1.
    rows = nibbles.permute(0, 7, 2, 1, 3, 4, 6, 5).reshape(n, k)
    return rows ^ 8


@peer("tinygemm")
def tinygemm(laid):
    """int4 weights in groups of 128 by torch's tinygemm. Its scales are bf16, so those of the
    problem, f16, are rounded."""
    m, n, k = gemm_shape(laid)
    group = 128

    def call(slot):
        q = unshuffled(laid.tensors[slot]["b"], n, k)
        packed = (q[:, 0::2] << 4 | q[:, 1::2]).contiguous()
        weights = torch.ops.aten._convert_weight_to_int4pack(packed, 8)
        scales = laid.get(slot, "b_scales", k // group, n, dtype="f16").to(torch.bfloat16)
        scales_and_zeros = torch.stack((scales, torch.zeros_like(scales)), -1).contiguous()
        a = laid.get(slot, "a", m, k)
        return lambda: torch.ops.aten._weight_int4pack_mm(a, weights, group, scales_and_zeros)
    return laid.each(call), of_torch("_weight_int4pack_mm (tinygemm), scales in bf16")


# The kernel of the Triton peer, filled in when triton is imported.
triton = tl = None


def triton_kernel():
    """A blocked product as in Triton's tutorial, tuned over a few tiles."""
    global triton, tl
    if "triton" in LOADED:
        return LOADED["triton"]
    try:
        import triton as found
        import triton.language as language
    except ImportError as error:
        raise Skipped(f"Triton is not there: {error}") from error
    triton, tl = found, language
    tiles = [(16, 64, 128, 4, 4), (64, 64, 64, 4, 4), (64, 128, 64, 4, 4), (128, 128, 64, 4, 8), (128, 256, 64, 3, 8)]
    configs = [triton.Config({"BM": bm, "BN": bn, "BK": bk}, num_stages=stages, num_warps=warps)
               for bm, bn, bk, stages, warps in tiles]

    def kernel(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
        tile = tl.program_id(0)
        down = tl.cdiv(m, BM)
        # Neighbours in a column of tiles share weights.
        row, column = tile % down, tile // down
        rows, columns = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN)
        depth = tl.arange(0, BK)
        a_at = a + (rows % m)[:, None] * k + depth[None, :]
        b_at = b + (columns % n)[None, :] * k + depth[:, None]
        sums = tl.zeros((BM, BN), dtype=tl.float32)
        for step in range(0, tl.cdiv(k, BK)):
            left = k - step * BK
            x = tl.load(a_at, mask=depth[None, :] < left, other=0.0)
            y = tl.load(b_at, mask=depth[:, None] < left, other=0.0)
            sums = tl.dot(x, y, sums)
            a_at += BK
            b_at += BK
        c_at = c + rows[:, None] * n + columns[None, :]
        inside = (rows[:, None] < m) & (columns[None, :] < n)
        tl.store(c_at, sums.to(c.dtype.element_ty), mask=inside)
    LOADED["triton"] = triton.autotune(configs=configs, key=["m", "n", "k"])(triton.jit(kernel))
    return LOADED["triton"]


@peer("triton_matmul")
def triton_matmul(laid):
    kernel = triton_kernel()
    m, n, k = gemm_shape(laid)

    def call(slot):
        a, b, c = laid.get(slot, "a", m, k), laid.get(slot, "b", n, k), laid.get(slot, "c", m, n)

        def run():
            grid = lambda tile: (triton.cdiv(m, tile["BM"]) * triton.cdiv(n, tile["BN"]),)
            kernel[grid](a, b, c, m, n, k)
            return c
        return run
    return laid.each(call), f"Triton {triton.__version__}, tutorial product over 5 tiles"


def heads(laid):
    return laid.count("q_heads"), laid.count("kv_heads"), laid.count("head_dim")


def decode_qkv(laid, slot):
    """Q, K and V of contiguous decode as SDPA takes them: [batch, head, token, dim]."""
    hq, hkv, d = heads(laid)
    b, c, new = laid.count("batch"), laid.count("context"), laid.count("new_tokens")
    q = laid.get(slot, "q", b, new, hq, d).transpose(1, 2)
    return q, laid.get(slot, "k", b, hkv, c, d), laid.get(slot, "v", b, hkv, c, d)


def prefill_qkv(laid, slot):
    """The same of prefill."""
    if laid.fields.get("lengths", "equal") != "equal":
        raise Skipped("its prompts are of equal lengths here; rows of several lengths have no gaps")
    hq, hkv, d = heads(laid)
    b, new = laid.count("batch"), laid.count("new_tokens")
    c, of_value = new + laid.count("prefix"), value_dim(laid)
    return (laid.get(slot, "q", b, hq, new, d), laid.get(slot, "k", b, hkv, c, d),
            laid.get(slot, "v", b, hkv, c, of_value))


def value_dim(laid):
    """Width of a value of prefill, where it is not that of a key."""
    return int(laid.fields.get("v_head_dim") or laid.count("head_dim"))


def sdpa(laid, backend):
    """Scaled dot product attention with one backend, and how it is called."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    import torch.nn.functional as F
    is_decode = laid.request["op"] == "decode_attention"
    causal = not is_decode and laid.fields["causal"] == "true"
    hq, hkv, _ = heads(laid)
    views = laid.each(lambda s: (decode_qkv if is_decode else prefill_qkv)(laid, s))
    ordered = (lambda o: o.transpose(1, 2)) if is_decode else (lambda o: o)

    def plain(q, k, v):
        with sdpa_kernel([getattr(SDPBackend, backend)]):
            return ordered(F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=hq != hkv))

    def direct(q, k, v):
        op = torch.ops.aten._scaled_dot_product_cudnn_attention
        return ordered(op(q, k, v, None, False, 0.0, causal, False)[0])
    how, call = "scaled_dot_product_attention", plain
    try:
        plain(*views[0])
    except RuntimeError as error:
        if backend != "CUDNN_ATTENTION":
            raise Skipped(f"SDPA refuses it with this backend: {last_line(error)}") from error
        try:
            direct(*views[0])
        except RuntimeError as second:
            raise Skipped(f"cuDNN refuses it: {last_line(second)}") from second
        how, call = "_scaled_dot_product_cudnn_attention", direct
    return [lambda view=view: call(*view) for view in views], how


def last_line(error):
    lines = str(error).strip().split("\n")
    return lines[-1][:200]


@peer("sdpa_cudnn")
def sdpa_cudnn(laid):
    calls, how = sdpa(laid, "CUDNN_ATTENTION")
    return calls, of_torch(f"{how} (cuDNN {torch.backends.cudnn.version()})")


@peer("sdpa_flash")
def sdpa_flash(laid):
    calls, how = sdpa(laid, "FLASH_ATTENTION")
    return calls, of_torch(f"{how} (FlashAttention-2)")


@peer("sdpa_cpu")
def sdpa_cpu(laid):
    calls, how = sdpa(laid, "FLASH_ATTENTION")
    return calls, of_torch(f"{how} on the CPU")


def fa3_forward(q, k, v, out, scale, causal, cu_q, max_q, max_k, cu_k=None, used=None, table=None, meta=None,
                descale=(None, None, None)):
    """FlashAttention-3 as vLLM builds it: for requests of several lengths alone, whose tokens
    lie in a row, [token of all requests, head, dim], or keys and values in pages. `descale` are
    factors of 8-bit queries, keys and values, each [request, key head]."""
    return torch.ops._vllm_fa3_C.fwd(
        q, k, v, None, None, None, out,
        cu_q, cu_k, None, None, used, max_q, max_k,
        table, None, None, None, None, None, *descale,
        scale, causal, -1, -1, 0.0, True,
        meta, 0, None, 0, None, 1, 0, None)[0]


@peer("flash_attention_3")
def flash_attention_3(laid):
    load_library("_vllm_fa3_C.abi3.so", "FlashAttention-3")
    name = "FlashAttention-3 (vLLM's build)"
    if laid.request["op"] == "prefill_attention":
        return fa3_prefill(laid), f"{name}, tokens in a row"
    paged = laid.fields["layout"].startswith("paged")
    how = "paged" if paged else "each request a page"
    return fa3_decode(laid, paged), f"{name}, {how}, scheduler metadata computed before"


def starts(laid, count, each):
    """Where each of so many requests of equal lengths begins, and where the last ends."""
    return torch.arange(count + 1, dtype=torch.int32, device=laid.device) * each


def descale_of(laid, slot, name):
    """A tensor's one scale for each request and key head, where it has one."""
    if name not in laid.by_name:
        return None
    return scales_of(laid, slot, name, (1, 1)).expand(laid.count("batch"), laid.count("kv_heads"))


def fa3_prefill(laid):
    """Inputs are put in its order before they are timed."""
    d, causal = laid.count("head_dim"), laid.fields["causal"] == "true"
    b, new = laid.count("batch"), laid.count("new_tokens")
    c = new + laid.count("prefix")
    cu_q, cu_k = starts(laid, b, new), starts(laid, b, c)
    dtype = torch_dtype(laid.fields["dtype"])

    def call(slot):
        q, k, v = (t.transpose(1, 2).flatten(0, 1).contiguous() for t in prefill_qkv(laid, slot))
        out = torch.empty(q.shape[0], q.shape[1], v.shape[2], dtype=dtype, device=q.device)
        descale = [descale_of(laid, slot, name) for name in ("q_scales", "k_scales", "v_scales")]

        def run():
            fa3_forward(q, k, v, out, d**-0.5, causal, cu_q, new, c, cu_k=cu_k, descale=descale)
            return out.unflatten(0, (b, new)).transpose(1, 2)
        return run
    return laid.each(call)


def pages_of(laid):
    """Tokens of a page, pages of a request, and whether the token comes before the head."""
    layout = laid.fields["layout"]
    size = int(layout.removeprefix("paged").removesuffix("_nhd"))
    return size, -(-laid.count("context") // size), layout.endswith("_nhd")


def paged_kv(laid, slot, name):
    """A paged cache as [page, token in page, head, dim], whatever its order in memory."""
    _, hkv, d = heads(laid)
    size, _, token_first = pages_of(laid)
    if token_first:
        return laid.get(slot, name, -1, size, hkv, d)
    return laid.get(slot, name, -1, hkv, size, d).transpose(1, 2)


def fa3_decode(laid, paged):
    """As vLLM calls it: a page table, and how requests are spread over multiprocessors computed
    once. A contiguous cache has one page for each request."""
    hq, hkv, d = heads(laid)
    b, c, new = laid.count("batch"), laid.count("context"), laid.count("new_tokens")
    size, per = pages_of(laid)[:2] if paged else (c, 1)
    used, cu_q = laid.lengths(), starts(laid, b, new)
    meta = torch.ops._vllm_fa3_C.get_scheduler_metadata(
        b, new, c, hq, hkv, d, d, torch_dtype(laid.fields["dtype"]), used,
        cu_q, None, None, None, None, size, 0, True, -1, -1, False, 0, None, 0)

    def call(slot):
        q, out = laid.get(slot, "q", b * new, hq, d), laid.get(slot, "o", b * new, hq, d)
        if paged:
            k, v = paged_kv(laid, slot, "k"), paged_kv(laid, slot, "v")
            table = laid.table(slot, b, per)
        else:
            k, v = (t.transpose(1, 2) for t in decode_qkv(laid, slot)[1:])
            table = starts(laid, b - 1, 1).view(b, 1)

        def run():
            fa3_forward(q, k, v, out, d**-0.5, True, cu_q, new, c, used=used, table=table, meta=meta)
            return out
        return run
    return laid.each(call)


def page_lists(laid, slot):
    """The pages of all requests one after the other, where each begins, and how full the last is."""
    size, per, _ = pages_of(laid)
    lengths = laid.request["lengths"]
    used = [-(-length // size) for length in lengths]
    begins = [0]
    for pages in used:
        begins.append(begins[-1] + pages)
    table = laid.table(slot, len(lengths), per)
    pages = torch.cat([table[i, :n] for i, n in enumerate(used)]).contiguous()
    last = [length - (n - 1) * size for length, n in zip(lengths, used)]
    return torch.tensor(begins, dtype=torch.int32), pages, torch.tensor(last, dtype=torch.int32)


def held_kv(laid, slot):
    """K and V pages in the order of memory, and FlashInfer's name for it."""
    _, hkv, d = heads(laid)
    size, _, token_first = pages_of(laid)
    shape = (-1, size, hkv, d) if token_first else (-1, hkv, size, d)
    kv = laid.get(slot, "k", *shape), laid.get(slot, "v", *shape)
    return kv, "NHD" if token_first else "HND"


@peer("flashinfer_fa2")
def flashinfer_fa2(laid):
    module = flashinfer_decode()
    hq, hkv, d = heads(laid)
    b, dtype = laid.count("batch"), torch_dtype(laid.fields["dtype"])
    size, _, _ = pages_of(laid)

    def call(slot):
        kv, order = held_kv(laid, slot)
        scratch = workspace("flashinfer_scratch", 512 << 20)
        wrapper = module.BatchDecodeWithPagedKVCacheWrapper(scratch, order, use_tensor_cores=True, backend="fa2")
        begins, pages, last = page_lists(laid, slot)
        wrapper.plan(begins, pages, last, hq, hkv, d, size, q_data_type=dtype, kv_data_type=dtype)
        q, out = laid.get(slot, "q", b, hq, d), laid.get(slot, "o", b, hq, d)
        return lambda: wrapper.run(q, kv, out=out)
    return laid.each(call), flashinfer_name("batch decode, tensor cores, fa2")


@peer("flashinfer_xqa")
def flashinfer_xqa(laid):
    module = flashinfer_decode()
    hq, _, d = heads(laid)
    b, c = laid.count("batch"), laid.count("context")
    _, per, token_first = pages_of(laid)
    used = laid.lengths()
    more = {} if token_first else {"kv_layout": "HND"}

    def call(slot):
        (k, v), _ = held_kv(laid, slot)
        scratch = workspace("xqa_scratch", 512 << 20)
        q, out = laid.get(slot, "q", b, hq, d), laid.get(slot, "o", b, hq, d)
        table = laid.table(slot, b, per)

        def run():
            module.xqa_batch_decode_with_kv_cache(q, (k, v), scratch, table, used, c, bmm1_scale=d**-0.5,
                                                  bmm2_scale=1.0, out=out, **more)
            return out
        return run
    return laid.each(call), flashinfer_name("XQA (TensorRT-LLM)")


def latent_shape(laid):
    """Batch, new tokens, query heads, width of keys and of values, tokens of a page."""
    latent, rope = laid.count("latent_dim"), laid.count("rope_dim")
    size, per, _ = pages_of(laid)
    return laid.count("batch"), laid.count("new_tokens"), laid.count("q_heads"), latent + rope, latent, size, per


def score_scale(laid):
    """Scores are divided by the root of a head's width before absorption."""
    return laid.request["score_width"]**-0.5


@peer("flash_mla")
def flash_mla(laid):
    load_library("_flashmla_C.abi3.so", "FlashMLA")
    b, new, h, wide, narrow, size, per = latent_shape(laid)
    used, scale, causal = laid.lengths(), score_scale(laid), new > 1
    plan = [None, None]

    def call(slot):
        q, out = laid.get(slot, "q", b, new, h, wide), laid.get(slot, "o", b, new, h, narrow)
        kv, table = laid.get(slot, "kv", -1, size, 1, wide), laid.table(slot, b, per)
        forward = torch.ops._flashmla_C.dense_decode_fwd
        if plan[0] is None:
            plan[:] = forward(q, kv, narrow, used, table, scale, causal, None, None, out)[2:4]

        def run():
            forward(q, kv, narrow, used, table, scale, causal, plan[0], plan[1], out)
            return out
        return run
    return laid.each(call), "FlashMLA (vLLM's build), metadata computed before"


@peer("flashinfer_mla")
def flashinfer_mla(laid):
    flashinfer_decode()
    from flashinfer.mla._batch_mla import BatchMLAPagedAttentionWrapper, MLAPlanMetadata
    b, new, h, wide, narrow, size, _ = latent_shape(laid)
    dtype = torch_dtype(laid.fields["dtype"])

    def call(slot):
        wrapper = BatchMLAPagedAttentionWrapper(workspace("flashinfer_mla_scratch", 128 << 20), backend="fa3")
        begins, pages, _ = page_lists(laid, slot)
        queries = torch.arange(b + 1, dtype=torch.int32, device=laid.device) * new
        metadata = MLAPlanMetadata.csr(queries, begins.to(laid.device), pages, laid.lengths())
        wrapper.plan(metadata=metadata, num_heads=h, head_dim_ckv=narrow, head_dim_kpe=wide - narrow, page_size=size,
                     causal=new > 1, sm_scale=score_scale(laid), q_data_type=dtype, kv_data_type=dtype)
        q, kv = laid.get(slot, "q", b * new, h, wide), laid.get(slot, "kv", -1, size, wide)
        out = laid.get(slot, "o", b * new, h, narrow)

        def run():
            wrapper.run(query=q, kv_cache=kv, out=out)
            return out
        return run
    return laid.each(call), flashinfer_name("MLA, fa3")


@peer("torch_sum")
def torch_sum(laid):
    """Reads all words; the sum wraps as ridgepoint's does."""
    def call(slot):
        words = laid.tensors[slot]["source"].view(torch.int32)
        return lambda: torch.sum(words, dim=0, keepdim=True, dtype=torch.int32)
    return laid.each(call), of_torch("sum of int32")


@peer("torch_copy")
def torch_copy(laid):
    source, target = laid.request["tensors"][0]["name"], laid.request["tensors"][-1]["name"]

    def call(slot):
        from_, to = laid.tensors[slot][source], laid.tensors[slot][target]
        return lambda: to.copy_(from_)
    return laid.each(call), of_torch("copy_ (cudaMemcpyAsync)")


# ---------------------------------------------------------------------------------------------
# Timing
# ---------------------------------------------------------------------------------------------
# Every multiprocessor's cycles beside the wall clock, one block for each: as read_clocks of
# kernels/device.cu. One that gets no block keeps its old entry.
READ_CLOCKS = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry read_clocks(.param .u64 cycles, .param .u64 ns, .param .u32 sms)
{
  .reg .pred outside;
  .reg .b32 sm, count;
  .reg .b64 at, to, read;
  mov.u32 sm, %smid;
  ld.param.u32 count, [sms];
  setp.ge.u32 outside, sm, count;
  @outside ret;
  mul.wide.u32 at, sm, 8;
  ld.param.u64 to, [cycles];
  add.u64 to, to, at;
  mov.u64 read, %clock64;
  st.global.u64 [to], read;
  ld.param.u64 to, [ns];
  add.u64 to, to, at;
  mov.u64 read, %globaltimer;
  st.global.u64 [to], read;
  ret;
}
"""


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of cuda.h."""

    _fields_ = [
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    ]


class ClockKernel:
    """Reads the clocks of all multiprocessors in a stream, through a library of the driver."""

    def __init__(self, library, sms):
        self.library, self.sms = library, sms
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self.module), READ_CLOCKS)
        self._call("cuModuleGetFunction", ctypes.byref(self.function), self.module, b"read_clocks")

    def _call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise OSError(f"{name} failed with code {code}")

    def queue(self, address, stream):
        """Queues a reading to 2 * sms words: all cycles, then all nanoseconds."""
        cycles, ns = ctypes.c_uint64(address), ctypes.c_uint64(address + 8 * self.sms)
        sms = ctypes.c_uint32(self.sms)
        config = LaunchConfig(self.sms, 1, 1, 1, 1, 1, 0, stream, None, 0)
        pointers = (ctypes.c_void_p * 3)(*(ctypes.addressof(x) for x in (cycles, ns, sms)))
        self._call("cuLaunchKernelEx", ctypes.byref(config), self.function, pointers, None)

    def hz(self, before, after):
        """The median clock between two readings; None where no multiprocessor was in both."""
        of_sms = []
        for sm in range(self.sms):
            cycles, ns = (after[at] - before[at] for at in (sm, self.sms + sm))
            if before[sm] > 0 and cycles > 0 and ns > 0:
                of_sms.append(cycles * 1e9 / ns)
        of_sms.sort()
        middle = len(of_sms) // 2
        return (of_sms[middle] + of_sms[-middle - 1]) / 2 if of_sms else None


def clock_kernel():
    """None, once with the reason, where the driver does not take it: then rows have no clock."""
    if "clocks" not in LOADED:
        try:
            sms = torch.cuda.get_device_properties(0).multi_processor_count
            LOADED["clocks"] = ClockKernel(ctypes.CDLL("libcuda.so.1"), sms)
        except (OSError, AttributeError) as error:
            print(f"no clocks of multiprocessors: {error}", file=sys.stderr)
            LOADED["clocks"] = None
    return LOADED["clocks"]


class CpuStopwatch:
    """Rows of launches timed by the host's clock; there is none of a GPU."""

    def __init__(self, launch_all):
        self.launch_all = launch_all

    def samples(self, count, repeats):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            for _ in range(repeats):
                self.launch_all()
            times.append((time.perf_counter() - start, None))
        return times

    def close(self):
        pass


class GraphStopwatch:
    """Rows of launches in a CUDA graph, replayed between events, and these between readings of
    clocks: all is queued back to back, as own samples are."""

    def __init__(self, launch_all):
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            launch_all()
        self.graph.replay()
        torch.cuda.synchronize()

    def samples(self, count, repeats):
        """Seconds, and the clock where it can be read, of each sample."""
        clocks = clock_kernel()
        sms = clocks.sms if clocks else 0
        readings = torch.zeros((count + 1, 2 * sms), dtype=torch.int64, device="cuda")
        stream = torch.cuda.current_stream().cuda_stream
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        # The first sample follows a row, as all others do.
        self.graph.replay()
        for at, (start, stop) in enumerate(pairs):
            if clocks:
                clocks.queue(readings[at].data_ptr(), stream)
            start.record()
            for _ in range(repeats):
                self.graph.replay()
            stop.record()
        if clocks:
            clocks.queue(readings[count].data_ptr(), stream)
        torch.cuda.synchronize()
        read = readings.tolist()
        hz = [clocks.hz(*both) if clocks else None for both in zip(read, read[1:])]
        return [(start.elapsed_time(stop) * 1e-3, clock) for (start, stop), clock in zip(pairs, hz)]

    def close(self):
        self.graph.reset()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def timed(device, run):
    """Seconds that `run` takes on the device, an upper bound where launching is slower."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def warm_up(device, calls, seconds):
    """Launches for so many seconds; the mean seconds of a launch over the second half."""
    start, launches, half = time.perf_counter(), 0, None
    while True:
        taken = timed(device, lambda: [call() for call in calls])
        now = time.perf_counter() - start
        if now > seconds / 2:
            half = (half or 0.0) + taken
            launches += len(calls)
        if now > seconds and half is not None:
            return half / launches


class Row:
    """A row of launches round the slots, whole turns, and the outputs of its last turn."""

    def __init__(self, calls, launches):
        self.calls, self.launches, self.outputs = calls, launches, [None] * len(calls)

    def launch_all(self):
        slots = len(self.calls)
        for launch in range(self.launches):
            self.outputs[launch % slots] = self.calls[launch % slots]()

    def poison(self):
        for output in self.outputs:
            output.fill_(float("nan") if output.is_floating_point() else -1)


def row_length(slots, launch_s):
    """Launches in a row: whole turns of about the wanted length."""
    wanted = max(1, min(GRAPH_LAUNCHES, round(SAMPLE_S / max(launch_s, 1e-9))))
    return -(-wanted // slots) * slots


def sample_count(settings, sample_s):
    """How many samples of that length: enough in number and time, unless time is up."""
    wanted = max(settings["min_samples"], math.ceil(settings["min_sample_s"] / sample_s))
    most = int(settings["max_sample_s"] / sample_s)
    return max(FEWEST_SAMPLES, min(wanted, most))


def measure(laid, calls):
    """The answer of a request whose buffers are laid out: samples, then outputs of slots."""
    device, settings = laid.device, laid.request["settings"]
    began = time.perf_counter()
    launch_s = timed(device, calls[0])
    if launch_s > settings["max_launch_s"]:
        launch_s = timed(device, calls[0])  # the first call may have compiled
    if launch_s > settings["max_launch_s"]:
        raise Skipped(f"one launch takes {launch_s:.2f} s, the suite allows {settings['max_launch_s']} s")
    launch_s = warm_up(device, calls, settings["warmup_s"])
    row = Row(calls, row_length(len(calls), launch_s))
    stopwatch = (GraphStopwatch if device == "cuda" else CpuStopwatch)(row.launch_all)
    row_s = max(1e-7, min(seconds for seconds, _ in stopwatch.samples(2, 1)))
    repeats = max(1, round(SAMPLE_S / row_s))
    warm_s = time.perf_counter() - began
    row.poison()
    synchronize(device)
    times = stopwatch.samples(sample_count(settings, row_s * repeats), repeats)
    sample_s = time.perf_counter() - began - warm_s
    outputs = write_outputs(laid, row)
    stopwatch.close()
    return {"status": "ok", "launches": row.launches * repeats, "samples": [[0, *sample] for sample in times],
            "warmup_s": warm_s, "sample_s": sample_s, "outputs": outputs}


def write_outputs(laid, row):
    """Writes the outputs that ridgepoint asks for, as bytes in the order of its own."""
    written = []
    for slot, path in laid.request["outputs"]:
        held = row.outputs[slot].contiguous().reshape(-1).view(torch.uint8).cpu()
        with open(path, "wb") as file:
            file.write(ctypes.string_at(held.data_ptr(), held.numel()))
        written.append([slot, path])
    return written


# ---------------------------------------------------------------------------------------------
# The child: does jobs
# ---------------------------------------------------------------------------------------------
def free(device):
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def do_job(request):
    """The answer of a request; whether the device can be used afterwards stands in `fatal`."""
    answer, device, began = {"id": request["id"]}, request["device"].split(":")[0], time.perf_counter()
    try:
        build = PEERS.get(request["peer"])
        if build is None:
            raise Skipped(f"scripts/peers.py has no peer {request['peer']}; it has {', '.join(sorted(PEERS))}")
        laid = Laid(request)
        calls, implementation = build(laid)
        synchronize(device)
        answer["implementation"] = implementation
        answer["setup_s"] = time.perf_counter() - began
        answer.update(measure(laid, calls))
    except Skipped as why:
        answer.update(status="skipped", reason=str(why))
    except Exception as error:  # whatever a library raises costs this job alone
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        reason = f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:400]}"
        # Peers may need more than ridgepoint: layouts of their own, and workspaces.
        is_short = type(error).__name__ == "OutOfMemoryError"
        answer.update(status="skipped" if is_short else "failed", reason=reason)
        error.__traceback__ = None
    laid = calls = None
    try:
        free(device)
    except Exception:
        answer["fatal"] = True
    return answer


def describe():
    """What this process measures with, for run.csv."""
    info = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
            "triton": version_of("triton")}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        info["device"] = properties.name
        info["uuid"] = str(getattr(properties, "uuid", ""))
        info["cudnn"] = str(torch.backends.cudnn.version())
    return info


def start_torch():
    """Imports torch and makes its stream; the child's first line."""
    global torch
    try:
        import torch as found
    except ImportError as error:
        return {"python": sys.version.split()[0], "error": f"torch cannot be imported: {error}"}
    torch = found
    torch.set_grad_enabled(False)
    if torch.cuda.is_available():
        torch.cuda.init()
        torch.cuda.set_stream(torch.cuda.Stream())
    return describe()


def child(fake):
    """Reads requests and answers them. What libraries print goes to standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: a job that hangs ends with the parent
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line):
        answers.write(json.dumps(line) + "\n")
        answers.flush()
    say({"hello": {"python": sys.version.split()[0], "fake": True} if fake else start_torch()})
    for line in sys.stdin:
        answer = (fake_job if fake else do_job)(json.loads(line))
        say(answer)
        if answer.get("fatal"):
            os._exit(3)
    return 0


# ---------------------------------------------------------------------------------------------
# Fake peers, for tests
# ---------------------------------------------------------------------------------------------
def fake_product(request, slot):
    """The bytes of C of a small gemm in f32."""
    m, n, k = (int(request["fields"][name]) for name in "mnk")
    a, b = (struct.unpack(f"<{t['bytes'] // 4}f", draw_bytes(t, t["keys"][slot])) for t in request["tensors"][:2])
    dot = lambda row, column: math.fsum(a[row * k + i] * b[column * k + i] for i in range(k))
    return b"".join(struct.pack("<f", dot(row, column)) for row in range(m) for column in range(n))


# The clock of a made-up multiprocessor.
FAKE_HZ = 1.2e9


def fake_job(request):
    """Made-up times; one peer answers wrongly, one dies, one hangs, and one is not there."""
    name, answer = request["peer"], {"id": request["id"], "implementation": f"fake {request['peer']} 1.0"}
    if name == "fake_missing":
        return {"id": request["id"], "status": "skipped", "reason": "the library fake is not there"}
    if name == "fake_crash":
        os._exit(9)
    if name == "fake_hang":
        time.sleep(3600)
    for slot, path in request["outputs"]:
        output = bytearray(fake_product(request, slot))
        if name == "fake_wrong":
            output[3] ^= 0x40
        with open(path, "wb") as file:
            file.write(output)
    launch_s = 1e-6 + sum(tensor["bytes"] for tensor in request["tensors"]) / 2e11
    launches = 10 * request["slots"]
    count = max(FEWEST_SAMPLES, request["settings"]["min_samples"])
    times = [[0, launches * launch_s * (1 + 1e-4 * ((i + request["round"]) % 3)), FAKE_HZ] for i in range(count)]
    return {**answer, "status": "ok", "launches": launches, "samples": times, "setup_s": 0.0,
            "warmup_s": 0.0, "sample_s": 0.0, "outputs": request["outputs"]}


# ---------------------------------------------------------------------------------------------
# The parent: starts children, and answers for those that died
# ---------------------------------------------------------------------------------------------
class Child:
    """A child process; its lines and its end come through a queue."""

    def __init__(self, arguments):
        command = [sys.executable, "-u", os.path.abspath(__file__), "--child", *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.lines, self.errors = queue.Queue(), collections.deque(maxlen=30)
        threading.Thread(target=self._read_answers, daemon=True).start()
        threading.Thread(target=self.errors.extend, args=(self.process.stderr,), daemon=True).start()
        self.hello = self.wait(START_LIMIT_S)

    def _read_answers(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def wait(self, limit_s):
        """The next line, or what became of the child."""
        try:
            line = self.lines.get(timeout=limit_s)
        except queue.Empty:
            self.end()
            return {"ended": f"it made no progress for {limit_s:.0f} s and was ended"}
        if line is not None:
            return json.loads(line)
        code = self.process.wait()
        told = [text.strip() for text in self.errors if text.strip()]
        return {"ended": f"its process ended with code {code}" + (f": {told[-1][:300]}" if told else "")}

    def ask(self, request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass  # its end is told by the queue
        return self.wait(request.get("limit_s") or JOB_LIMIT_S)

    def end(self):
        self.process.kill()
        self.process.wait()


def parent(arguments):
    """Answers every request, with one child after the other."""
    def say(line):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    running = Child(arguments)
    hello = running.hello
    say(hello if "hello" in hello else {"hello": {"error": f"the child did not start: {hello['ended']}"}})
    for line in sys.stdin:
        if not line.strip():
            continue
        request = json.loads(line)
        if running is None:
            running = Child(arguments)
        answer = running.ask(request) if "hello" in running.hello else running.hello
        if "ended" in answer:
            answer = {"id": request["id"], "status": "failed", "reason": answer["ended"], "fatal": True}
        if answer.get("fatal"):
            running.end()
            running = None
        say(answer)
    if running is not None:
        running.end()
    return 0


def draw_only():
    for line in sys.stdin:
        request = json.loads(line)
        print(draw_bytes(request, request["key"]).hex(), flush=True)
    return 0


def main():
    global SITE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", default=os.environ.get("RIDGEPOINT_PEERS_SITE", ""))
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    SITE = os.path.abspath(options.site) if options.site else ""
    if options.draw:
        return draw_only()
    if options.child:
        return child(options.fake)
    arguments = ["--site", SITE] + (["--fake"] if options.fake else [])
    return parent(arguments)


if __name__ == "__main__":
    sys.exit(main())
