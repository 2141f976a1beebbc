"""The chat template of models trained from scratch: ChatML, with tools, prefix preserving by construction.

Every message renders on its own, from its own fields, and only the generation prompt depends on being last. So the
rendering of k + 1 messages always begins with the rendering of k, and what a model was fed never changes when the
conversation grows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

START = "<|im_start|>"
END = "<|im_end|>"
PAD = "<|endoftext|>"
ROLES = ("system", "user", "assistant", "tool")

_TOOLS_HEAD = "Tools, one JSON schema a line:"
_TOOLS_CALL = 'To call one, write <tool_call>{"name": NAME, "arguments": {...}}</tool_call>.'

CHAT_TEMPLATE = (
    "{%- set rest = messages %}{%- set system = '' %}"
    "{%- if messages and messages[0].role == 'system' %}"
    "{%- set system = messages[0].content %}{%- set rest = messages[1:] %}{%- endif %}"
    "{%- if system or tools %}"
    "{{- '" + START + "system\n' + system }}"
    "{%- if tools %}"
    "{{- ('\n\n' if system else '') + '" + _TOOLS_HEAD + "' }}"
    "{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '\n" + _TOOLS_CALL + "' }}"
    "{%- endif %}"
    "{{- '" + END + "\n' }}"
    "{%- endif %}"
    "{%- for message in rest %}"
    "{%- if message.role not in ['user', 'assistant', 'tool'] %}"
    "{{- raise_exception('role ' + message.role + ' is not user, assistant or tool (system may only come first)') }}"
    "{%- endif %}"
    "{{- '" + START + "' + message.role + '\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}"
    "{%- set call = call.function or call %}"
    """{{- '<tool_call>{"name": ' + (call.name | tojson) + ', "arguments": ' + (call.arguments | tojson) }}"""
    "{{- '}</tool_call>' }}"
    "{%- endfor %}"
    "{{- '" + END + "\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '" + START + "assistant\n' }}{%- endif %}"
)


def describe_tools(tools: Sequence[dict[str, Any]]) -> str:
    """`tools` described as `CHAT_TEMPLATE` does it, for templates that have no place of their own for tools."""
    schemas = [json.dumps(tool, ensure_ascii=False) for tool in tools]
    return "\n".join([_TOOLS_HEAD, *schemas, _TOOLS_CALL])
