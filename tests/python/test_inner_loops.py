"""The inner loops of the integer products, as the compiler made them.

A compiler that keeps accumulators on the stack makes products a third slower, and no other test would see it.
The AMX tiles are read because they run on few machines: elsewhere their logic is tested by an emulation, and
this is what is known of the instructions themselves.
"""

import re
import shutil
import subprocess

import pytest

# osp::kernels::(anonymous namespace)::nibble_tile<8, 3>, and the tile of 2 × 2 registers of AMX.
NIBBLE_TILE_8_3 = "_ZN3osp7kernels12_GLOBAL__N_111nibble_tileILi8ELi3EEEvPKaPKhlliPi"
AMX_TILE_2_2 = "_ZN3osp7kernels9WideTilesINS0_12_GLOBAL__N_18AmxTilesEE4tileILi2ELi2EEEvPKalPKhllPi"


@pytest.fixture(scope="module")
def functions(osp_build):
    """functions(symbol, instruction): the code of each function of that name that has the instruction, as
    lists of (address, name, operands)."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed (Debian: binutils): the compiler's loops were not looked at")

    program = str(osp_build / "osp")

    def objdump(*options):
        return subprocess.run(
            ["objdump", *options, program], capture_output=True, text=True, check=True
        ).stdout

    def read(symbol, instruction):
        found = []
        # Every instruction set has a function of that name: "ADDRESS l F .text SIZE NAME".
        for line in re.findall(rf"^[0-9a-f]+ .* {symbol}$", table, re.MULTILINE):
            begin, size = int(line.split()[0], 16), int(line.split()[-2], 16)
            options = [
                "-d",
                "--no-show-raw-insn",
                f"--start-address={begin}",
                f"--stop-address={begin + size}",
            ]
            lines = instructions(objdump(*options))
            found += [lines] if instruction in names(lines) else []
        return found

    table = objdump("-t")
    return read


def instructions(text):
    found = re.findall(r"^ *([0-9a-f]+):\t(\S+) *([^#\n]*)", text, re.MULTILINE)
    return [(int(address, 16), name, operands.strip()) for address, name, operands in found]


def names(lines):
    return [name for _, name, _ in lines]


def loop_around(lines, instruction):
    """From the target of the jump back over the instruction to that jump."""
    places = [address for address, name, _ in lines if name == instruction]
    for address, name, operands in lines:
        target = re.match(r"[0-9a-f]+", operands)
        if not name.startswith("j") or target is None:
            continue
        if int(target[0], 16) <= places[0] and address > places[-1]:
            return [line for line in lines if int(target[0], 16) <= line[0] <= address]
    raise AssertionError(f"no loop has all {instruction}")


def on_the_stack(lines):
    return [f"{name} {operands}" for _, name, operands in lines if re.search(r"%r[sb]p", operands)]


def test_the_accumulators_of_the_widest_nibble_tile_stay_in_registers(functions):
    found = functions(NIBBLE_TILE_8_3, "vpdpbusd")
    assert len(found) == 1
    loop = loop_around(found[0], "vpdpbusd")
    # 8 rows × 3 panels × 2 halves of a line, and nothing stored.
    assert names(loop).count("vpdpbusd") == 48
    assert not on_the_stack(loop)
    assert not [f"{name} {operands}" for _, name, operands in loop if re.search(r"%zmm\d+,.*\(", operands)]


def test_the_amx_tile_loads_each_operand_once_and_multiplies_rows_by_panels(functions):
    found = functions(AMX_TILE_2_2, "tdpbsud")
    assert len(found) == 1
    loop = loop_around(found[0], "tdpbsud")
    # Unsigned panels, signed rows, sums.
    products = [operands for _, name, operands in loop if name == "tdpbsud"]
    assert sorted(products) == [
        "%tmm6,%tmm4,%tmm0",
        "%tmm6,%tmm5,%tmm2",
        "%tmm7,%tmm4,%tmm1",
        "%tmm7,%tmm5,%tmm3",
    ]
    loads = [operands.rpartition(",")[2] for _, name, operands in loop if name == "tileloadd"]
    assert sorted(loads) == ["%tmm4", "%tmm5", "%tmm6", "%tmm7"]
    assert not on_the_stack(loop)


def test_a_spill_is_found():
    text = """
  10:\tvpdpbusd %zmm28,%zmm0,%zmm9
  16:\tvmovdqa64 %zmm9,-0x40(%rbp)
  1c:\tvpdpbusd 0x80(%rsp),%zmm0,%zmm8
  22:\tjne    10 <f+0x10>
  28:\tvmovdqu64 0x40(%rsp),%zmm1
"""
    loop = loop_around(instructions(text), "vpdpbusd")
    assert on_the_stack(loop) == ["vmovdqa64 %zmm9,-0x40(%rbp)", "vpdpbusd 0x80(%rsp),%zmm0,%zmm8"]
