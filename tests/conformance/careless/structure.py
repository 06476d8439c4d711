"""What is around the nodes: uses, outputs, defaults, subgraphs, functions, names, random
numbers."""

from __future__ import annotations

import numpy as np
import onnx

from careless.graph import Graph

LOCAL = 'opset_import: ["" : 17, "local" : 1]'
LOCAL_FUNCTION = '<domain: "local", opset_import: ["" : 17]> '


def same_names(model: onnx.ModelProto) -> None:
    """Names of nodes need not be unique, nor there."""
    for node in model.graph.node[:-1]:
        node.name = "n"


def annotate(model: onnx.ModelProto) -> None:
    """Metadata and doc strings wherever there can be some."""
    for of, name in (
        (model, "model"),
        (model.graph, "graph"),
        (model.graph.input[0], "in"),
        (model.graph.output[0], "out"),
        (model.graph.node[0], "node"),
    ):
        of.metadata_props.add(key="made by", value=name)
        of.doc_string = f"the doc of the {name}"
    model.producer_name, model.producer_version = "someone", "1.2"
    model.domain, model.model_version = "org.example", 7


GRAPHS = (
    Graph(
        "two_random_draws_are_two",
        "equal nodes, but not equal values",
        "g (float[4] x) => (float[4] y) { a = RandomUniformLike (x) b = RandomUniformLike (x) "
        "y = Sub (a, b) }",
        random=True,
    ),
    Graph(
        "a_random_constant",
        "no inputs does not mean constant",
        "g (float[4] x) => (float[4] y) { r = RandomNormal <shape = [4]> () y = Add (x, r) }",
        random=True,
    ),
    Graph(
        "bernoulli_and_multinomial_of_constants",
        "constant inputs do not mean constant",
        "g (float[2] x) => (float[2] y, int32[1, 3] z) <float[2] p = {0.5, 0.5}, "
        "float[1, 2] q = {0.5, 0.5}> { r = Bernoulli (p) y = Add (x, r) "
        "z = Multinomial <sample_size = 3> (q) }",
        random=True,
    ),
    Graph(
        "dropout_in_training_mode",
        "with training_mode it draws",
        "g (float[8] x) => (float[8] y) <float r = {0.5}, bool t = {1}> { y = Dropout (x, r, t) }",
        random=True,
    ),
    Graph(
        "dropout_out_of_training_mode",
        "without it is the input, and its mask is all true",
        "g (float[8] x) => (float[8] y, bool[8] m) <float r = {0.5}, bool t = {0}> "
        "{ y, m = Dropout (x, r, t) }",
    ),
    Graph(
        "overridable_defaults",
        "an initializer that is an input as well is no constant",
        "g (float[2] x, float[2] w = {1, 1}, float z = {0}) => (float[2] y) "
        "{ m = Mul (x, w) y = Add (m, z) }",
    ),
    Graph(
        "overridable_defaults_of_shapes_and_indices",
        "nor are shapes, axes and indices",
        "g (float[2, 3] x, int64[2] s = {3, 2}, int64 i = {0}) => (float[A, B] y, float[C] z) "
        "{ y = Reshape (x, s) z = Gather (x, i) }",
        fixed={"s": np.array([1, 6], np.int64), "i": np.int64(1)},
    ),
    Graph(
        "overridable_condition",
        "an If on a default must stay",
        "g (float[2] x, bool c = {1}) => (float[2] y) { y = If (c) <then_branch = t () => "
        "(float[2] a) { a = Neg (x) }, else_branch = e () => (float[2] b) { b = Abs (x) }> }",
        fixed={"c": np.bool_(False)},
    ),
    Graph(
        "inputs_that_nothing_uses",
        "they stay, and so do unused defaults, and their order",
        "g (float[2] u, float[2] x, int64[1] w, float[1] d = {1}) => (float[2] y) { y = Neg (x) }",
    ),
    Graph(
        "an_input_that_is_an_output",
        "an Identity between input and output cannot go",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Identity (x) z = Identity (y) }",
    ),
    Graph(
        "an_initializer_that_is_an_output",
        "constant outputs keep their names",
        "g (float[2] x) => (float[2] y, float[2] w, float[2] z) <float[2] w = {1, 2}> "
        "{ y = Add (x, w) z = Identity (w) }",
    ),
    Graph(
        "one_value_is_two_outputs",
        "both names stay",
        "g (float[2] x) => (float[2] a, float[2] b, float[2] c) "
        "{ a = Neg (x) b = Identity (a) c = Neg (x) }",
    ),
    Graph(
        "an_output_in_the_middle",
        "an intermediate value that is an output keeps its value and its name",
        "g (float[14] x) => (float[14] y, float[14] m) <float l = {0}, float h = {6}> "
        "{ m = Relu (x) y = Clip (m, l, h) }",
    ),
    Graph(
        "a_value_used_twice",
        "the first of a chain has another use",
        "g (float[2, 3] x) => (float[2, 3] y, float[3, 2] z) <float k = {2}> "
        "{ a = Mul (x, k) y = Mul (a, k) z = Transpose (a) }",
    ),
    Graph(
        "if_with_captured_values",
        "a value that only a branch uses is used",
        "g (float[2] x, bool c) => (float[2] y) { n = Neg (x) m = Exp (x) y = If (c) "
        "<then_branch = t () => (float[2] a) { a = Abs (n) }, else_branch = e () => (float[2] b) "
        "{ b = Sqrt (m) }> }",
    ),
    Graph(
        "if_on_a_constant_with_names_used_twice",
        "an inlined branch may use names of the outer graph or of the other branch",
        "g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}, bool d = {0}> { u = Exp (x) "
        "y = If (c) <then_branch = t () => (float[2] p) <float[2] w = {1, 2}> { v = Add (u, w) "
        "p = Neg (v) }, else_branch = e () => (float[2] q) { q = Abs (u) }> "
        "z = If (d) <then_branch = t () => (float[2] p) { v = Exp (u) p = Neg (v) }, "
        "else_branch = e () => (float[2] p) <float[2] w = {3, 4}> { v = Mul (u, w) p = Abs (v) "
        "}> }",
    ),
    Graph(
        "if_on_a_constant_whose_branch_is_an_outer_value",
        "the branch gives a captured value, or a constant, without any node",
        "g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}> { n = Neg (x) "
        "y = If (c) <then_branch = t () => (float[2] a) { a = Identity (n) }, "
        "else_branch = e () => (float[2] b) { b = Abs (x) }> "
        "z = If (c) <then_branch = t () => (float[2] w) { w = Constant <value = float[2] {1, 2}> "
        "() }, "
        "else_branch = e () => (float[2] b) { b = Abs (x) }> }",
    ),
    Graph(
        "if_with_branches_of_other_shapes",
        "the shape of the one is not the shape of the other",
        "g (float[2, 2] x, bool c) => (int64[K] y) <int64[1] f = {-1}> { i = If (c) <then_branch = "
        "t () => (float[4] a) { a = Reshape (x, f) }, else_branch = e () => (float[2, 2] b) "
        "{ b = Neg (x) }> y = Shape (i) }",
    ),
    Graph(
        "equal_nodes_in_two_branches",
        "CSE across branches needs the value before the If",
        "g (float[2] x, bool c) => (float[2] y) { y = If (c) <then_branch = t () => (float[2] a) "
        "{ s = Exp (x) a = Neg (s) }, else_branch = e () => (float[2] b) { s = Exp (x) b = Abs "
        "(s) }> }",
    ),
    Graph(
        "loop_with_scan_outputs",
        "values of each turn are stacked; the body sees the outer graph",
        """g (float[2] x) => (float[2] y, float[A, 2] z) <int64 n = {3}, bool c = {1}> { k = Neg (x)
        y, z = Loop (n, c, x) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] t,
        float[2] o) { co = Identity (ci) t = Add (s, k) f = Cast <to = 1> (i) o = Mul (t, f) }>
        }""",
    ),
    Graph(
        "loop_that_never_runs",
        "zero turns, and a condition that is false from the start",
        """g (float[2] x) => (float[2] y, float[A, 2] z, float[2] w) <int64 n = {0}, bool c = {1},
        int64 m = {3},
        bool f = {0}> { y, z = Loop (n, c, x) <body = b (int64 i, bool ci, float[2] s) => (bool co,
        float[2] t, float[2] o) { co = Identity (ci) t = Neg (s) o = Neg (s) }>
        w = Loop (m, f, x) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] t)
        { co = Identity (ci) t = Neg (s) }> }""",
    ),
    Graph(
        "loop_that_stops_itself",
        "the number of turns depends on the data",
        """g (float x) => (float y) <int64 n = {9}, bool c = {1}, float l = {10}> { a = Abs (x)
        y = Loop (n, c, a) <body = b (int64 i, bool ci, float s) => (bool co, float t)
        { t = Add (s, s) co = Less (t, l) }> }""",
    ),
    Graph(
        "loop_with_a_random_body",
        "what is constant in a body is drawn in each turn",
        """g (float[1] x) => (float[1] y, float[A, 1] z) <int64 n = {3}, bool c = {1}> { y, z =
        Loop (n, c, x)
        <body = b (int64 i, bool ci, float[1] s) => (bool co, float[1] t, float[1] o)
        { co = Identity (ci) t = Identity (s) o = RandomNormal <shape = [1]> () }> }""",
        random=True,
    ),
    Graph(
        "scan_with_a_captured_constant",
        "the body uses an initializer of the outer graph, and shadows nothing",
        """g (float[3, 2] x) => (float[2] y, float[3, 2] z) <float[2] init = {0, 0}, float[2] k =
        {2, 3}>
        { y, z = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] t,
        float[2] o)
        { p = Mul (e, k) t = Add (s, p) o = Identity (t) }> (init, x) }""",
    ),
    Graph(
        "a_function_with_a_standard_name",
        "local.Relu is not Relu",
        "g (float[4] x) => (float[4] y) { a = local.Relu (x) b = local.Add (a, x) y = Relu (b) }",
        opset=0,
        header=LOCAL,
        functions=LOCAL_FUNCTION
        + "Relu (a) => (b) { b = Neg (a) }\n"
        + LOCAL_FUNCTION
        + "Add (a, c) => (b) { b = Sub (a, c) }",
    ),
    Graph(
        "a_function_with_attributes",
        "references to attributes become values where it is inlined, each its own",
        "g (float[4] x) => (float[4] y) "
        "{ a = local.leak <slope = 0.5> (x) b = local.leak (a) y = local.leak <slope = -1.0> (b) }",
        opset=0,
        header=LOCAL,
        functions=LOCAL_FUNCTION + "leak <slope: float = 0.25> (a) => (b) "
        "{ b = LeakyRelu <alpha: float = @slope> (a) }",
    ),
    Graph(
        "a_function_of_another_opset",
        "what it is made of is a layer of opset 17, but it imports opset 16",
        "g (float[2, 4] x) => (float[2, 4] y) { y = local.norm (x) }",
        opset=0,
        header=LOCAL,
        functions='<domain: "local", opset_import: ["" : 16]> norm (a) => (b) '
        "{ e = Constant <value_float = 0.01> () m = ReduceMean <axes = [-1]> (a) d = Sub (a, m) "
        "s = Mul (d, d) v = ReduceMean <axes = [-1]> (s) t = Add (v, e) r = Sqrt (t) b = Div (d, "
        "r) }",
    ),
    Graph(
        "a_function_called_in_a_branch",
        "names inside functions meet names outside",
        "g (float[2] x, bool c) => (float[2] y) { t = Exp (x) y = If (c) <then_branch = th () => "
        "(float[2] a) { a = local.f (t) }, else_branch = el () => (float[2] b) { b = local.f (x) "
        "}> }",
        opset=0,
        header=LOCAL,
        functions=LOCAL_FUNCTION + "f (x) => (y) { t = Neg (x) y = Abs (t) }",
    ),
    Graph(
        "a_model_without_the_default_domain",
        "only functions of its own",
        "g (float[2] x) => (float[2] y) { y = local.f (x) }",
        opset=0,
        header='opset_import: ["local" : 1]',
        functions=LOCAL_FUNCTION + "f (x) => (y) { t = Neg (x) y = Abs (t) }",
    ),
    Graph(
        "a_domain_that_nobody_knows",
        "its operators may do anything, even with constants, and even unused",
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] c = {1, 2}> { a = who.Relu (x) "
        "b = who.Add (c, c) y = Relu (a) z = Relu (b) d = who.Print (x) }",
        opset=0,
        header='opset_import: ["" : 17, "who" : 1]',
        unrunnable=True,
        keeps=("who.Relu", "who.Add", "who.Print", "Relu", "Relu"),
    ),
    Graph(
        "nodes_of_one_name",
        "names of nodes need not be unique",
        "g (float[3] x) => (float[3] y) <float z = {0}> "
        "{ a = Exp (x) b = Add (a, z) c = Identity (b) d = Neg (c) y = Abs (d) }",
        edit=same_names,
    ),
    Graph(
        "metadata_everywhere",
        "of model, graph, inputs, outputs and nodes",
        "g (float[3] x) => (float[3] y) <float z = {0}> { a = Neg (x) b = Identity (a) y = Abs "
        "(b) }",
        ir_version=10,
        edit=annotate,
    ),
    Graph(
        "names_that_a_tool_would_choose",
        "the names that a new value would get are taken",
        "g (float[3] x) => (float[3] y) <float[3] x_folded = {1, 2, 3}, float[3] y_1 = {1, 2, 3}> "
        "{ a_0 = Add (x_folded, y_1) val_0 = Neg (a_0) constant_0 = Add (val_0, y_1) "
        "y = Add (x, constant_0) }",
    ),
    Graph(
        "empty_tensors",
        "reductions, products and Concat of nothing",
        "g (float[0, 3] x) => (float[1, 3] a, float[0, 2] b, float[1, 3] c, float[0, 6] d) "
        "<float[3, 2] w = {1, 2, 3, 4, 5, 6}, int64[1] z = {0}> { a = ReduceSum (x, z) "
        "b = MatMul (x, w) c = ReduceProd <axes = [0]> (x) d = Concat <axis = 1> (x, x) }",
    ),
    Graph(
        "strings",
        "constants that are no numbers",
        'g (string[2] x) => (bool[2] y, string[2] z) <string[2] c = {"a", ""}> '
        "{ z = Identity (c) y = Equal (x, z) }",
        opset=19,
        ir_version=9,
    ),
    Graph(
        "optional_outputs_in_the_middle",
        "an empty name between two outputs holds a place",
        "g (float[2, 4] x) => (float[2, 2] v, float[2, 4] y, float[2, 1] d) <int64[1] k = {2}, "
        "float[4] s = {1, 2, 3, 4}> { v, _i = TopK (x, k) y, , d = LayerNormalization (x, s) }",
    ),
    Graph(
        "a_chain_of_identities_and_outputs",
        "each output has a name of its own, all are one value",
        "g (float[2] x) => (float[2] y, float[2] z) "
        "{ a = Identity (x) b = Neg (a) c = Identity (b) y = Identity (c) z = Identity (c) }",
    ),
    Graph(
        "sequences",
        "values that are no tensors",
        "g (float[2] x) => (float[2] y, int64 n) <int64 i = {1}> { s = SequenceConstruct (x, x) "
        "e = Neg (x) t = SequenceInsert (s, e, i) y = SequenceAt (t, i) n = SequenceLength (t) }",
    ),
)
