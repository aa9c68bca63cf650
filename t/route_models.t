# route_models.t - llm_model and $llm_model: the body's "model" decides which
# engine serves, names and aliases are listed, and unknown ones are a 404.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup_several(a => [], b => [], gone => undef);
no_long_string();
no_root_location();

plan tests => 152;
run_tests();

__DATA__

=== TEST 1: the model in the body chooses the engine
--- http_config
    llm_model small a;
    llm_model big b;
--- config
    location / { llm_pass $llm_model; add_header X-Engine $llm_engine; }
--- pipelined_requests eval
[map { "POST /v1/chat/completions\n{\"messages\":[],\"model\":\"$_\",\"mock\":{\"tokens\":1}}" } qw(small big small)]
--- more_headers
Content-Type: application/json
--- response_headers eval
["X-Engine: a", "X-Engine: b", "X-Engine: a"]
--- response_body_like eval
['"model":"a"', '"model":"b"', '"model":"a"']
--- no_error_log
[error]
[alert]



=== TEST 2: an alias, a name with slashes, a name with escapes
--- http_config
    llm_model small a alias=gpt-4o,gpt-4o-mini;
    llm_model "org/Großes \"1\"" b;
--- config
    location / { llm_pass $llm_model; }
--- pipelined_requests eval
[map { "POST /v1/completions\n{\"prompt\":\"x\",\"model\":\"$_\",\"mock\":{\"tokens\":1}}" }
    'gpt-4o', 'gpt-4o-mini', 'org\/Gro\u00dfes \"1\"', 'small']
--- more_headers
Content-Type: application/json
--- response_body_like eval
['"model":"a"', '"model":"a"', '"model":"b"', '"model":"a"']



=== TEST 3: the engine gets the name that it knows, and the body as it came
--- http_config
    llm_model small a model=org/small-7b;
    llm_model plain a;
--- config
    location / { llm_pass $llm_model; }
--- pipelined_requests eval
[map { "POST /v1/completions\n{\"prompt\":\"x\",\"model\":\"$_\",\"mock\":{\"echo\":true}}" } qw(small plain a)]
--- more_headers
Content-Type: application/json
--- response_body_like eval
['"model_id":"org/small-7b".*"body":\{"prompt":"x","model":"small"',
 '"model_id":"".*"body":\{"prompt":"x","model":"plain"',
 '"model_id":"".*"body":\{"prompt":"x","model":"a"']



=== TEST 4: the served model is in the answer and in $llm_model
--- http_config
    llm_model small a model=org/small-7b;
    log_format m '$status "$llm_model" "$llm_engine"';
--- config
    location / { llm_pass $llm_model; access_log logs/access.log m; }
--- request
POST /v1/completions
{"prompt":"x","model":"small","mock":{"tokens":1}}
--- more_headers
Content-Type: application/json
--- response_body_like: "model":"org/small-7b"
--- access_log
200 "org/small-7b" "a"



=== TEST 5: an unknown model is OpenAI's 404 and says what there is
--- http_config
    llm_model small a alias=gpt-4o;
    llm_model big b;
    log_format m '$status "$llm_model" "$llm_engine"';
--- config
    location / { llm_pass $llm_model; access_log logs/access.log m; }
--- request
POST /v1/chat/completions
{"messages":[],"model":"gpt-\"5\""}
--- more_headers
Content-Type: application/json
--- error_code: 404
--- response_headers
Content-Type: application/json
--- response_body
{"error":{"message":"The model `gpt-\"5\"` does not exist. Models here: small, big","type":"invalid_request_error","param":"model","code":"model_not_found"}}
--- no_error_log
[error]
--- access_log
404 "gpt-\x225\x22" "-"



=== TEST 6: without a model there is the default one, or a 404
--- http_config
    llm_model small a;
    llm_model big b default;
--- config
    location / { llm_pass $llm_model; }
--- pipelined_requests eval
["POST /v1/completions\n{\"prompt\":\"x\",\"mock\":{\"tokens\":1}}",
 "POST /v1/completions\n{\"prompt\":\"x\",\"model\":\"\",\"mock\":{\"tokens\":1}}",
 "POST /v1/completions\n{\"prompt\":\"x\",\"model\":7,\"mock\":{\"tokens\":1}}"]
--- more_headers
Content-Type: application/json
--- response_body_like eval
['"model":"b"', '"model":"b"', '"model":"b"']



=== TEST 7: no default
--- http_config
    llm_model small a;
--- config
    location / { llm_pass $llm_model; }
--- pipelined_requests eval
["POST /v1/completions\n{\"prompt\":\"x\"}", "GET /metrics"]
--- more_headers
Content-Type: application/json
--- error_code eval
[404, 404]
--- response_body_like eval
['names no model. Models here: small.*"code":"model_not_found"', '"code":"model_not_found"']



=== TEST 8: GET /metrics, /health and /version go to the default model
--- http_config
    llm_model small a default;
--- config
    location / { llm_pass $llm_model; add_header X-Engine $llm_engine; }
--- pipelined_requests eval
["GET /metrics", "GET /health", "GET /version"]
--- response_headers eval
[("X-Engine: a") x 3]



=== TEST 9: malformed JSON has no model; the engine says what is wrong
--- http_config
    llm_model small a default;
    llm_model big b;
--- config
    location / { llm_pass $llm_model; add_header X-Engine $llm_engine always; }
--- request
POST /v1/completions
{"model":"big",
--- more_headers
Content-Type: application/json
--- error_code: 400
--- response_headers
X-Engine: a
--- response_body_like: invalid_request



=== TEST 10: an engine's own name is tried last, and its body decides alone
--- http_config
    llm_model b a;
--- config
    location / { llm_pass $llm_model; add_header X-Engine $llm_engine; }
--- pipelined_requests eval
[map { "POST /v1/completions\n{\"prompt\":\"x\",\"model\":\"$_\",\"mock\":{\"tokens\":1}}" } qw(a b)]
--- more_headers
Content-Type: application/json
--- response_headers eval
["X-Engine: a", "X-Engine: a"]



=== TEST 11: a fixed model serves whatever is asked for
--- http_config
    llm_model small a model=s7;
--- config
    location / { llm_pass small; }
--- request
POST /v1/completions
{"prompt":"x","model":"anything","mock":{"tokens":1}}
--- more_headers
Content-Type: application/json
--- response_body_like: "model":"s7"



=== TEST 12: a map from models to engines, with a regular expression
--- http_config
    map $llm_model $engine { default a; ~^big b; }
--- config
    location / { llm_pass $engine; add_header X-Engine $llm_engine; }
--- pipelined_requests eval
[map { "POST /v1/completions\n{\"prompt\":\"x\",\"model\":\"$_\",\"mock\":{\"echo\":true}}" } qw(big-1 other)]
--- more_headers
Content-Type: application/json
--- response_headers eval
["X-Engine: b", "X-Engine: a"]
--- response_body_like eval
['"model_id":"".*"model":"big-1"', '"model_id":"".*"model":"other"']



=== TEST 13: what the map makes of it is unknown: the client's model is named
--- http_config
    map $llm_model $engine { ~^big nowhere; }
--- config
    location / { llm_pass $engine; }
--- request
POST /v1/completions
{"prompt":"x","model":"big-1"}
--- more_headers
Content-Type: application/json
--- error_code: 404
--- response_body_like: The model `big-1` does not exist\..*"param":"model"
--- error_log
no "llm_engine" is called "nowhere"



=== TEST 14: a body in a temporary file, the model behind the messages
--- http_config
    llm_model small a;
    llm_model big b;
--- config
    client_body_in_file_only clean;
    location / { llm_pass $llm_model; add_header X-Engine $llm_engine; }
--- request eval
"POST /v1/completions\n{\"prompt\":\"" . ('x\\"' x 100000) . "\",\"model\":\"big\",\"mock\":{\"tokens\":1}}"
--- more_headers
Content-Type: application/json
--- response_headers
X-Engine: b



=== TEST 15: a body in memory and in a file, in chunks
--- http_config
    llm_model small a;
    llm_model big b;
--- config
    client_body_buffer_size 1k;
    location / { llm_pass $llm_model; add_header X-Engine $llm_engine; }
--- raw_request eval
["POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    . "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    (map { sprintf "%x\r\n%s\r\n", length, $_ } '{"p', 'rompt":"' . 'y' x 5000 . '","mo',
        'del":"big","mock":{"tokens":1}} '), "0\r\n\r\n"]
--- response_headers
X-Engine: b



=== TEST 16: /v1/models lists what can be asked for
--- http_config
    llm_model small a alias=gpt-4o;
    llm_model big b gone;
--- config
    location / { llm_pass $llm_model; }
--- request
GET /v1/models
--- response_headers
Content-Type: application/json
--- response_body_like: ^\{"object":"list","data":\[\{"id":"small","object":"model","created":\d+,"owned_by":"nginx-llm","root":"small","parent":null,"permission":\[\]\},\{"id":"gpt-4o",[^{}]*"root":"small"[^{}]*\},\{"id":"big",[^{}]*\}\]\}$



=== TEST 17: one model, by its name, an alias, an engine's name, or none
--- http_config
    llm_model org/small a alias=gpt-4o;
--- config
    location / { llm_pass $llm_model; }
--- pipelined_requests eval
["GET /v1/models/org/small", "GET /v1/models/gpt-4o", "GET /v1/models/b", "GET /v1/models/c"]
--- error_code eval
[200, 200, 200, 404]
--- response_body_like eval
['^\{"id":"org/small".*\}$', '^\{"id":"gpt-4o".*"root":"org/small"', '"id":"mock"',
 'The model `c` does not exist. Models here: org/small.*"code":"model_not_found"']



=== TEST 18: a fixed model lists itself only
--- http_config
    llm_model small a alias=gpt-4o;
    llm_model big b;
--- config
    location / { llm_pass small; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models/gpt-4o", "GET /v1/models/big", "HEAD /v1/models"]
--- error_code eval
[200, 200, 404, 200]
--- response_body_like eval
['^\{"object":"list","data":\[\{"id":"small"[^{}]*\},\{"id":"gpt-4o"[^{}]*\}\]\}$',
 '"id":"gpt-4o"', 'model_not_found', '^$']



=== TEST 19: a list needs no engine, and a request for one that is gone is a 503
--- http_config
    llm_model small gone;
--- config
    location / { llm_pass small; }
--- pipelined_requests eval
["GET /v1/models", "POST /v1/completions\n{\"prompt\":\"x\"}"]
--- more_headers
Content-Type: application/json
--- error_code eval
[200, 503]
--- response_body_like eval
['"id":"small"', 'engine_unavailable']



=== TEST 20: $llm_model and $llm_prefix_hash where proxy_pass is
--- http_config
    llm_model small a;
    llm_model big b;
    map $llm_model $path { default other; small llm; ~^org/ llm; }
--- config
    location / {
        llm_read_body on;
        proxy_set_header X-Model $llm_model;
        proxy_set_header X-Hash $llm_prefix_hash;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/$path$request_uri;
    }
    location /other/ { return 200 "other:$http_x_model:$http_x_hash"; }
    location /llm/ { return 200 "llm:$http_x_model:$http_x_hash"; }
--- pipelined_requests eval
["POST /v1/chat/completions\n{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"model\":\"small\"}",
 "POST /v1/chat/completions\n{\"model\":\"none\"}", "GET /v1/models/org/x", "GET /x",
 "POST /x\n--b\r\n{\"model\":\"small\"}", "POST /x\n{\"model\":\"small\",\"model\":\"small\"}"]
--- response_body_like eval
['^llm:small:[0-9a-f]{16}$', '^other:none:$', '^llm:org/x:$', '^other::$', '^other::$', '^other::$']



=== TEST 21: before the body is read there is no model, unless it is read early
--- http_config
    llm_model small a;
    limit_req_zone $llm_model zone=models:1m rate=1r/m;
    limit_req_status 429;
--- config
    limit_req zone=models;
    location /late/ { llm_pass $llm_model; }
    location /early/ { llm_read_body on; llm_pass $llm_model; }
--- pipelined_requests eval
[map { "POST /$_->[0]/v1/completions\n{\"prompt\":\"x\",\"model\":\"$_->[1]\",\"mock\":{\"tokens\":1}}" }
    ['late', 'small'], ['late', 'small'], ['early', 'small'], ['early', 'small'], ['early', 'b']]
--- more_headers
Content-Type: application/json
--- error_code eval
[200, 200, 200, 429, 200]
--- raw_response_headers_like eval
[("X-Request-Id: [0-9a-f]{32}\r\n") x 5]



=== TEST 22: error_page to a remote service still knows the model
--- http_config
    llm_model small gone;
--- config
    location / { llm_pass $llm_model; error_page 503 = @remote; }
    location @remote { proxy_set_header X-Model $llm_model;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT; rewrite ^ /remote break; }
    location = /remote { return 200 "remote:$http_x_model"; }
--- request
POST /v1/completions
{"prompt":"x","model":"small"}
--- more_headers
Content-Type: application/json
--- response_body: remote:small



=== TEST 23: a model of no engine
--- http_config
    llm_model small nobody;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
no "llm_engine nobody" is defined, but model "small" names it in



=== TEST 24: the same name twice
--- http_config
    llm_model small a alias=x;
    llm_model x b;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
duplicate model name "x"



=== TEST 25: an alias that is the model itself
--- http_config
    llm_model small a alias=small;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
duplicate model name "small"



=== TEST 26: an engine twice
--- http_config
    llm_model small a b a;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
model "small" has the engine "a" twice



=== TEST 27: no engine
--- http_config
    llm_model small alias=x;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
model "small" has 0 engines



=== TEST 28: a fallback that is no model
--- http_config
    llm_model small a fallback=b;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
fallback "b" of model "small" is no "llm_model" in



=== TEST 29: a fallback to itself, by its alias
--- http_config
    llm_model small a alias=s fallback=s;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
fallback "s" of model "small" is the model itself in



=== TEST 30: two defaults
--- http_config
    llm_model small a default;
    llm_model big b default;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
the default model is "small" already



=== TEST 31: an unknown parameter
--- http_config
    llm_model small a weight=3;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
invalid parameter "weight=3" of model "small"



=== TEST 32: an empty name in a list
--- http_config
    llm_model small a alias=x,,y;
--- config
    location / { llm_pass $llm_model; }
--- must_die
--- error_log
"x,,y" has an empty name



=== TEST 33: prefix bytes out of range
--- config
    location / { llm_pass a; llm_prefix_bytes 0; }
--- must_die
--- error_log eval
qr/"llm_prefix_bytes" must be from 1 to 1048576 in \S+nginx.conf:\d+/



=== TEST 34: an unknown way to balance
--- config
    location / { llm_pass a; llm_balance fastest; }
--- must_die
--- error_log
invalid value "fastest"



=== TEST 35: a model in the URI cannot break a line, of a header or of the log
--- http_config
    llm_model small a;
--- config
    location / { llm_pass $llm_model; add_header X-Model "<$llm_model>" always; }
    location /v1/models/late/ { return 200 "<$llm_model>"; }
--- pipelined_requests eval
["GET /v1/models/a%0d%0aX-Evil:%201", "GET /v1/models/late/%1b[2J"]
--- error_code eval
[404, 200]
--- raw_response_headers_unlike eval
["X-Evil:", "X-Evil:"]
--- response_body_like eval
['"model_not_found"', '^<>$']
