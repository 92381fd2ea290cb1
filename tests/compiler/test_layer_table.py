from pagedc.compiler.graph import Node
from pagedc.compiler.layer_table import layer_table
from pagedc.compiler.outline import Loop
from pagedc.compiler.program import Call, Weight


def test_a_column_of_weights_that_have_no_module_has_a_name() -> None:
    def call(name: str, index: int) -> Call:
        node = Node("parameter", (), (4, 4), "float32", "const")
        return Call("linear", "", weights=[Weight(name, node, "f32", index)])

    loop = Loop([[call("folded_1|folded_2", 0)], [call("folded_3|folded_4", 1)]])
    (column,) = layer_table(loop).columns
    assert (column.name, column.values) == ("weights", [0, 1])


def test_attentions_of_one_period_have_columns_of_different_names() -> None:
    loop = Loop([[Call("attention", "", layer=0), Call("attention", "", layer=5)],
                 [Call("attention", "", layer=1), Call("attention", "", layer=4)]])  # fmt: skip
    columns = layer_table(loop).columns
    assert [(column.name, column.values) for column in columns] == [
        ("kv_cache", [0, 1]),
        ("kv_cache_2", [5, 4]),
    ]
