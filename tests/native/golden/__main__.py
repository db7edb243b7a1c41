from tests.native.golden import file_of, golden_table

file = file_of(golden_table())
print("\n".join(file[at : at + 60].hex() for at in range(0, len(file), 60)))
