"""Which language a file is in, and which of its syntax nodes define something.

A node type maps to the kind of symbol it defines; the definitions query of a language is made from that table, so that
adding a language is adding a row. Names of node types are the grammars' own (tree-sitter-language-pack 0.13).
"""

from __future__ import annotations

FUNCTION, METHOD, CLASS, INTERFACE, ENUM, STRUCT, MODULE, TYPE, CONSTANT, TRAIT, IMPL, MACRO, SECTION, RULE = (
    "function",
    "method",
    "class",
    "interface",
    "enum",
    "struct",
    "module",
    "type",
    "constant",
    "trait",
    "impl",
    "macro",
    "section",
    "rule",
)

KINDS = (FUNCTION, METHOD, CLASS, INTERFACE, ENUM, STRUCT, MODULE, TYPE, CONSTANT, TRAIT, IMPL, MACRO, SECTION, RULE)
"""What a definition can be."""

CONTAINERS = frozenset({CLASS, INTERFACE, STRUCT, TRAIT, IMPL, ENUM})
"""A function inside one of these is a method."""

_JAVASCRIPT = {
    "function_declaration": FUNCTION,
    "generator_function_declaration": FUNCTION,
    "class_declaration": CLASS,
    "method_definition": METHOD,
    "variable_declarator": CONSTANT,
}
_TYPESCRIPT = {
    **_JAVASCRIPT,
    "abstract_class_declaration": CLASS,
    "interface_declaration": INTERFACE,
    "enum_declaration": ENUM,
    "type_alias_declaration": TYPE,
    "internal_module": MODULE,
    "function_signature": FUNCTION,
    "method_signature": METHOD,
    "abstract_method_signature": METHOD,
}
_C = {
    "function_definition": FUNCTION,
    "struct_specifier": STRUCT,
    "union_specifier": STRUCT,
    "enum_specifier": ENUM,
    "type_definition": TYPE,
    "preproc_function_def": MACRO,
}

DEFINITIONS: dict[str, dict[str, str]] = {
    "python": {"function_definition": FUNCTION, "class_definition": CLASS},
    "javascript": _JAVASCRIPT,
    "typescript": _TYPESCRIPT,
    "tsx": _TYPESCRIPT,
    "java": {
        "class_declaration": CLASS,
        "interface_declaration": INTERFACE,
        "enum_declaration": ENUM,
        "record_declaration": CLASS,
        "annotation_type_declaration": INTERFACE,
        "method_declaration": METHOD,
        "constructor_declaration": METHOD,
    },
    "go": {
        "function_declaration": FUNCTION,
        "method_declaration": METHOD,
        "type_spec": TYPE,
        "type_alias": TYPE,
    },
    "rust": {
        "function_item": FUNCTION,
        "function_signature_item": FUNCTION,
        "struct_item": STRUCT,
        "enum_item": ENUM,
        "union_item": STRUCT,
        "trait_item": TRAIT,
        "impl_item": IMPL,
        "mod_item": MODULE,
        "macro_definition": MACRO,
        "type_item": TYPE,
    },
    "c": _C,
    "cpp": {**_C, "class_specifier": CLASS, "namespace_definition": MODULE, "alias_declaration": TYPE},
    "objc": {"function_definition": FUNCTION, "class_interface": CLASS, "class_implementation": CLASS},
    "csharp": {
        "class_declaration": CLASS,
        "interface_declaration": INTERFACE,
        "struct_declaration": STRUCT,
        "record_declaration": CLASS,
        "enum_declaration": ENUM,
        "method_declaration": METHOD,
        "constructor_declaration": METHOD,
        "property_declaration": METHOD,
        "namespace_declaration": MODULE,
        "delegate_declaration": TYPE,
    },
    "ruby": {"method": FUNCTION, "singleton_method": METHOD, "class": CLASS, "module": MODULE},
    "php": {
        "function_definition": FUNCTION,
        "method_declaration": METHOD,
        "class_declaration": CLASS,
        "interface_declaration": INTERFACE,
        "trait_declaration": TRAIT,
        "enum_declaration": ENUM,
    },
    "swift": {"function_declaration": FUNCTION, "class_declaration": CLASS, "protocol_declaration": INTERFACE},
    "kotlin": {"function_declaration": FUNCTION, "class_declaration": CLASS, "object_declaration": CLASS},
    "scala": {
        "function_definition": FUNCTION,
        "class_definition": CLASS,
        "object_definition": CLASS,
        "trait_definition": TRAIT,
        "enum_definition": ENUM,
    },
    "bash": {"function_definition": FUNCTION},
    "fish": {"function_definition": FUNCTION},
    "powershell": {"function_statement": FUNCTION, "class_statement": CLASS, "enum_statement": ENUM},
    "lua": {"function_declaration": FUNCTION},
    "perl": {"subroutine_declaration_statement": FUNCTION, "package_statement": MODULE},
    "r": {"function_definition": FUNCTION},
    "julia": {
        "function_definition": FUNCTION,
        "struct_definition": STRUCT,
        "module_definition": MODULE,
        "macro_definition": MACRO,
    },
    "elixir": {},
    "erlang": {"fun_decl": FUNCTION, "record_decl": STRUCT},
    "haskell": {"function": FUNCTION, "data_type": TYPE, "class": CLASS, "newtype": TYPE, "instance": IMPL},
    "ocaml": {"value_definition": FUNCTION, "type_definition": TYPE, "module_definition": MODULE},
    "dart": {"function_signature": FUNCTION, "class_definition": CLASS, "enum_declaration": ENUM},
    "zig": {"Decl": FUNCTION},
    "groovy": {},
    "sql": {"create_table": TYPE, "create_view": TYPE, "create_function": FUNCTION},
    "proto": {"message": STRUCT, "enum": ENUM, "service": INTERFACE, "rpc": METHOD},
    "graphql": {
        "object_type_definition": TYPE,
        "interface_type_definition": INTERFACE,
        "enum_type_definition": ENUM,
        "input_object_type_definition": TYPE,
    },
    "hcl": {"block": RULE},
    "solidity": {
        "contract_declaration": CLASS,
        "interface_declaration": INTERFACE,
        "function_definition": FUNCTION,
        "struct_declaration": STRUCT,
        "event_definition": TYPE,
        "modifier_definition": FUNCTION,
    },
    "fortran": {"subroutine": FUNCTION, "function": FUNCTION, "module": MODULE},
    "nim": {"proc_declaration": FUNCTION, "type_declaration": TYPE},
    "make": {"rule": RULE},
    "cmake": {"function_def": FUNCTION, "macro_def": MACRO},
    "css": {},
    "scss": {"mixin_statement": FUNCTION, "function_statement": FUNCTION},
}
"""Language to (node type to kind of symbol). An empty row: known by name, cut by lines."""

_BY_EXTENSION = {
    "python": "py pyi pyw pyx",
    "javascript": "js jsx mjs cjs",
    "typescript": "ts mts cts",
    "tsx": "tsx",
    "java": "java",
    "go": "go",
    "rust": "rs",
    "c": "c h",
    "cpp": "cc cpp cxx c++ hh hpp hxx h++ inl ipp cu cuh ino",
    "objc": "m mm",
    "csharp": "cs",
    "ruby": "rb rake gemspec",
    "php": "php phtml",
    "swift": "swift",
    "kotlin": "kt kts",
    "scala": "scala sc",
    "bash": "sh bash zsh ksh",
    "fish": "fish",
    "powershell": "ps1 psm1",
    "lua": "lua",
    "perl": "pl pm",
    "r": "r R",
    "julia": "jl",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "haskell": "hs",
    "ocaml": "ml",
    "dart": "dart",
    "zig": "zig",
    "groovy": "groovy gradle",
    "sql": "sql",
    "proto": "proto",
    "graphql": "graphql gql",
    "hcl": "tf hcl tfvars",
    "solidity": "sol",
    "fortran": "f f90 f95 f03 f08",
    "nim": "nim",
    "make": "mk",
    "cmake": "cmake",
    "css": "css",
    "scss": "scss",
    "less": "less",
    "html": "html htm xhtml jinja jinja2 j2 ejs hbs mustache",
    "vue": "vue",
    "svelte": "svelte",
    "astro": "astro",
    "markdown": "md markdown mdx",
    "restructuredtext": "rst",
    "text": "txt adoc asciidoc org tex",
    "json": "json json5 jsonc",
    "yaml": "yaml yml",
    "toml": "toml",
    "ini": "ini cfg conf properties editorconfig",
    "xml": "xml xsd xsl svg plist",
    "clojure": "clj cljs cljc edn",
    "lisp": "lisp el scm rkt",
    "fsharp": "fs fsi fsx",
    "vb": "vb",
    "pascal": "pas",
    "d": "d",
    "nix": "nix",
    "vim": "vim",
    "tcl": "tcl",
    "awk": "awk",
    "assembly": "s S asm",
    "verilog": "v sv",
    "vhdl": "vhd vhdl",
    "glsl": "glsl vert frag wgsl hlsl",
    "template": "tmpl tpl mako",
    "thrift": "thrift",
    "prisma": "prisma",
    "bazel": "bzl bazel",
    "diff": "patch diff",
    "notebook": "ipynb",
}
_LANGUAGE_OF_EXTENSION = {
    extension: language for language, extensions in _BY_EXTENSION.items() for extension in extensions.split()
}
_LANGUAGE_OF_NAME = {
    "Makefile": "make",
    "makefile": "make",
    "GNUmakefile": "make",
    "Dockerfile": "dockerfile",
    "Containerfile": "dockerfile",
    "CMakeLists.txt": "cmake",
    "Rakefile": "ruby",
    "Gemfile": "ruby",
    "Jenkinsfile": "groovy",
    "BUILD": "bazel",
    "WORKSPACE": "bazel",
    "SConstruct": "python",
    "wscript": "python",
    "go.mod": "go-module",
    "Vagrantfile": "ruby",
    "README": "text",
    "LICENSE": "text",
    "CHANGES": "text",
    "AUTHORS": "text",
}

PROSE = frozenset({"markdown", "restructuredtext", "text"})
DATA = frozenset({"json", "yaml", "toml", "ini", "xml", "diff"})


def language_of(path: str) -> str | None:
    """The language of a file by its name; None for one that holds no text worth searching."""
    name = path.rpartition("/")[2]
    known = _LANGUAGE_OF_NAME.get(name)
    if known is not None:
        return known
    if name.startswith("Dockerfile."):
        return "dockerfile"
    _, dot, extension = name.rpartition(".")
    if not dot:
        return None
    return _LANGUAGE_OF_EXTENSION.get(extension) or _LANGUAGE_OF_EXTENSION.get(extension.lower())
