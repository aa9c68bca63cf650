"""test_bad_input.py - odd and hostile requests: always a JSON error that names
the field, the engine alive, the next request served.
"""
import gzip
import http.client
import json

import httpx
import pytest

MSG = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def post(url, body, path=CHAT, **kw):
    if isinstance(body, (dict, list)):
        return httpx.post(url + path, json=body, timeout=30, **kw)
    headers = {"Content-Type": "application/json", **kw.pop("headers", {})}
    return httpx.post(url + path, content=body, headers=headers, timeout=30, **kw)


def assert_error(r, status, param=None):
    assert r.status_code == status, (r.status_code, r.text)
    assert r.headers["content-type"].startswith("application/json"), r.headers
    e = r.json()["error"]
    assert set(e) >= {"message", "type", "param", "code"}
    assert e["message"]
    if param:
        assert e["param"] is not None and e["param"].startswith(param), e
    return e


def alive(url):
    r = post(url, {"messages": MSG, "max_tokens": 1})
    assert r.status_code == 200, r.text


def chat(**kw):
    return {"model": "demo", "messages": MSG, "max_tokens": 2, **kw}


FIELD_CASES = [
    ("n", v) for v in (0, -1, 1.5, "3", 17, 100000, True, [])
] + [
    ("max_tokens", v) for v in (0, -1, 2**31, 2**63, 1e18, "7", 2.5)
] + [
    ("temperature", v) for v in (-0.1, 2.5, 1e308, "1", [], True)
] + [
    ("top_p", v) for v in (0, -1, 1.1, "x")
] + [
    ("top_k", v) for v in (-2, 1.5, 2**40)
] + [
    ("min_p", v) for v in (-0.1, 1.5)
] + [
    ("seed", v) for v in (2**64, 1.5, "a")
] + [
    ("stop", v) for v in ("", ["a", ""], ["a"] * 5, "x" * (1 << 20), [1], 5)
] + [
    ("stream", v) for v in ("yes", 1)
] + [
    ("min_tokens", v) for v in (-1, 3)
] + [
    ("messages", v) for v in ([], "hi", None, {})
] + [
    ("stop_token_ids", v) for v in ([-1], [2**31], ["a"], 5)
] + [
    ("stream_options", {"include_usage": True}),
    ("user", 5),
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("response_format", {"type": "json_object"}),
    ("logprobs", True),
    ("logit_bias", {"1": 5}),
    ("presence_penalty", 0.5),
    ("audio", {}),
    ("best_of", 2),
]


@pytest.mark.parametrize("field,value", FIELD_CASES,
                         ids=[f"{f}={str(v)[:20]}" for f, v in FIELD_CASES])
def test_field_out_of_range_is_400_naming_it(url, field, value):
    assert_error(post(url, chat(**{field: value})), 400, field)


@pytest.mark.parametrize("field,value", [
    ("n", 1), ("n", None), ("max_tokens", None), ("temperature", -0.0),
    ("top_k", -1), ("top_k", 10**9), ("seed", -1), ("stop", None),
    ("stop", []), ("logprobs", False), ("presence_penalty", 0), ("unknown_field", {"a": 1}),
    ("response_format", {"type": "text"}), ("user", "me"), ("tool_choice", "none")])
def test_neutral_values_are_accepted(url, field, value):
    r = post(url, chat(**{field: value}))
    assert r.status_code == 200, r.text


MALFORMED = {
    "empty": b"", "not json": b"hello", "array": b"[]", "string": b'"x"',
    "truncated": b'{"messages":[', "trailing comma": b'{"messages":[],}',
    "trailing garbage": b'{"messages":[{"role":"user","content":"a"}]} x',
    "comment": b'{"messages":[]/**/}', "NaN": b'{"temperature":NaN}',
    "leading zero": b'{"n":01}', "1e400": b'{"max_tokens":1e400}',
    "duplicate key": b'{"model":"demo","model":"demo","messages":[]}',
    "duplicate key escaped": b'{"model":"demo","mod\\u0065l":"demo","messages":[]}',
    "deep array": b'{"messages":' + b"[" * 100000 + b"]" * 100000 + b"}",
    "depth 65": b'{"a":' + b"[" * 65 + b"]" * 65 + b"}",
    "raw NUL": b'{"messages":"a\x00b"}',
    "lone surrogate": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "reversed pair": b'{"messages":[{"role":"user","content":"\\udc00\\ud800"}]}',
    "overlong": b'{"messages":[{"role":"user","content":"\xc0\xaf"}]}',
    "cut utf8": b'{"messages":[{"role":"user","content":"\xc2"}]}',
    "bom": b'\xef\xbb\xbf{"messages":[]}',
    "utf16": '{"messages":[]}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_json_is_400(url, name):
    assert_error(post(url, MALFORMED[name]), 400)
    alive(url)


def test_escaped_nul_is_data(url):
    r = post(url, b'{"messages":[{"role":"user","content":"a\\u0000b"}],"max_tokens":1}')
    assert r.status_code == 200, r.text


def test_unknown_model_is_404(url):
    e = assert_error(post(url, chat(model="nope")), 404, "model")
    assert "nope" in e["message"]


@pytest.mark.parametrize("messages", [
    [{"content": "x"}], [{"role": "alien", "content": "x"}], [5],
    [{"role": "user", "content": 5}], [{"role": "user", "content": {"a": 1}}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
    [{"role": "user", "content": "x"}] * 2049,
])
def test_bad_messages_are_400_naming_them(url, messages):
    assert_error(post(url, chat(messages=messages)), 400, "messages")


@pytest.mark.parametrize("prompt", ["", [], [[]], None, 5, {}, [-1], [2**31], [1.5],
                                    [[1], ["a"]], ["a", 5], [""]])
def test_bad_prompts_are_400(url, prompt):
    assert_error(post(url, {"prompt": prompt}, "/v1/completions"), 400, "prompt")


def test_prompt_longer_than_the_context_is_400_with_the_numbers(url):
    limit = post(url, {"prompt": "x"}, "/tokenize").json()["max_model_len"]
    e = assert_error(post(url, {"prompt": [5] * (limit + 1)}, "/v1/completions"), 400, "prompt")
    assert str(limit) in e["message"] and str(limit + 1) in e["message"]
    e = assert_error(post(url, chat(max_tokens=limit)), 400, "max_tokens")
    assert str(limit) in e["message"]
    assert_error(post(url, chat(messages=[{"role": "user", "content": "word " * (limit + 5)}])), 400)
    alive(url)


def test_oversized_body_is_413(url):
    assert_error(post(url, b'{"a":"' + b"x" * (40 << 20) + b'"}'), 413)
    alive(url)


@pytest.mark.parametrize("ctype", ["text/plain", "multipart/form-data", "application/xml"])
def test_wrong_content_type_is_415(url, ctype):
    assert_error(post(url, json.dumps(chat()).encode(), headers={"Content-Type": ctype}), 415)


def test_curl_default_content_type_works(url):
    """curl -d without -H says x-www-form-urlencoded; every tutorial does it."""
    r = post(url, json.dumps(chat()).encode(),
             headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert r.status_code == 200


def test_gzip_body_is_415(url):
    assert_error(post(url, gzip.compress(json.dumps(chat()).encode()),
                      headers={"Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize("method,path", [("GET", CHAT), ("GET", "/v1/completions"),
                                         ("PUT", CHAT), ("DELETE", "/v1/models"),
                                         ("POST", "/v1/models"), ("GET", "/tokenize")])
def test_wrong_method_is_405(url, method, path):
    r = httpx.request(method, url + path)
    assert_error(r, 405)
    assert "allow" in r.headers


@pytest.mark.parametrize("path", ["/v1/nope", "/v2/chat/completions", "/", "/v1", "/admin"])
def test_unknown_path_is_404(url, path):
    assert_error(httpx.get(url + path), 404)
    assert_error(post(url, chat(), path), 404)


def test_path_is_normalised_before_routing(url):
    host = url.split("//")[1]
    for path in ("/v1//chat/completions", "/v1/x/../chat/completions", "/v1/%63hat/completions"):
        c = http.client.HTTPConnection(host, timeout=30)
        c.request("POST", path, json.dumps(chat()), {"Content-Type": "application/json"})
        assert c.getresponse().status == 200, path
        c.close()


def test_error_never_echoes_prompt_text(url):
    secret = "s3cr3t-" + "x" * 20
    r = post(url, chat(messages=[{"role": "user", "content": secret}], temperature="hot"))
    assert secret not in r.text


def test_detokenize_refuses_bad_ids(url):
    for tokens in ([-1], [10**9], ["a"], "x", None):
        assert_error(post(url, {"tokens": tokens}, "/detokenize"), 400, "tokens")
