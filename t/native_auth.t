# native_auth.t - nginx decides who may ask: keys by map, auth_basic,
# auth_request, allow and deny, satisfy, realip.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 50;
run_tests();

__DATA__

=== TEST 1: keys in a file, by map: 401 in OpenAI's shape, with a challenge
--- http_config
    map $llm_key $user { default ""; include ../html/keys; }
    map $status $challenge { default ""; 401 Bearer; }
--- config
    location / {
        if ($user = "") { return 401; }
        add_header WWW-Authenticate $challenge always;
        add_header X-User $user;
        llm_pass mock;
    }
--- user_files
>>> keys
sk-alice-1 alice;
sk-bob-1   bob;
--- pipelined_requests eval
[("GET /v1/models") x 4]
--- more_headers eval
["Authorization: Bearer sk-alice-1", "x-api-key: sk-bob-1", "Authorization: Bearer sk-eve", "X-A: b"]
--- error_code eval
[200, 200, 401, 401]
--- response_headers eval
["X-User: alice\n! WWW-Authenticate", "X-User: bob", "! X-User\nContent-Type: application/json", "! X-User"]
--- response_body_like eval
[qr/"object":"list"/, qr/"object":"list"/,
 qr/"message":"The API key is not valid\.".*"code":"invalid_api_key"/,
 qr/"message":"Authentication is required\.".*"code":"invalid_api_key"/]



=== TEST 2: the challenge of add_header
--- http_config
    map $status $challenge { default ""; 401 Bearer; }
--- config
    add_header WWW-Authenticate $challenge always;
    llm_json_errors on;
    if ($llm_key = "") { return 401; }
    location / { llm_pass mock; }
--- request
GET /v1/models
--- error_code: 401
--- response_headers
WWW-Authenticate: Bearer
Content-Type: application/json



=== TEST 3: a refused request has not read its body and has not touched the engine
--- config
    location / { if ($llm_key = "") { return 401; } llm_pass mock; }
--- pipelined_requests eval
["POST /v1/chat/completions\n{\"mock\":{\"crash\":\"before\"}}", "GET /v1/models"]
--- more_headers eval
["Content-Type: application/json", "Authorization: Bearer k"]
--- error_code eval
[401, 200]



=== TEST 4: auth_basic
--- config
    location / { auth_basic models; auth_basic_user_file ../html/users; llm_pass mock; }
--- user_files
>>> users
alice:{PLAIN}wonder
--- pipelined_requests eval
[("POST /v1/completions\n{\"prompt\":\"a\",\"mock\":{\"tokens\":1}}") x 2]
--- more_headers eval
["Content-Type: application/json\nAuthorization: Basic YWxpY2U6d29uZGVy",
 "Content-Type: application/json\nAuthorization: Basic YWxpY2U6Ym9i"]
--- error_code eval
[200, 401]
--- response_body_like eval
[qr/tok0/, qr/"authentication_error"/]



=== TEST 5: auth_request asks another server, which knows the keys; it gets no body
--- http_config
    map $llm_key $known { default ""; sk-1 alice; sk-2 bob; }
    map $known $may { default 204; "" 401; bob 403; }
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        add_header X-User $known;
        add_header X-Length "[$http_content_length]";
        add_header WWW-Authenticate 'Bearer realm="keys"' always;
        if ($may = 401) { return 401; }
        if ($may = 403) { return 403; }
        return 204;
    }
--- config
    location / {
        auth_request /check;
        auth_request_set $user $upstream_http_x_user;
        auth_request_set $length $upstream_http_x_length;
        add_header X-User "$user $length";
        llm_pass mock;
    }
    location = /check {
        internal;
        proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
    }
--- pipelined_requests eval
[("POST /v1/chat/completions\n{\"mock\":{\"tokens\":1}}") x 3]
--- more_headers eval
[map { "Content-Type: application/json\nAuthorization: Bearer sk-$_" } 1, 2, 3]
--- error_code eval
[200, 403, 401]
--- response_headers eval
["X-User: alice []", "Content-Type: application/json",
 "WWW-Authenticate: Bearer realm=\"keys\"\nContent-Type: application/json"]
--- response_body_like eval
[qr/tok0/, qr/"code":"forbidden"/, qr/"code":"invalid_api_key"/]



=== TEST 6: a checker that is down
--- config
    location / { auth_request /check; llm_pass mock; }
    location = /check { internal; proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
GET /v1/models
--- error_code: 500
--- response_body_like: "type":"server_error","param":null,"code":"internal_error"
--- error_log
auth request unexpected status: 502



=== TEST 7: an llm_pass location can be the one that is asked
--- config
    location / { auth_request /v1/models; return 200 x; }
    location /guarded { auth_request /v1/models; llm_pass mock; llm_endpoint chat_completions; }
    location /v1/models { internal; llm_pass mock; }
--- request
POST /guarded
{"mock":{"tokens":1}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok0
--- no_error_log
[error]
[alert]



=== TEST 8: allow and deny, with the address that realip tells
--- config
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    location / { allow 10.0.0.0/8; deny all; llm_pass mock; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models", "GET /v1/models"]
--- more_headers eval
["X-Forwarded-For: 10.1.2.3", "X-Forwarded-For: 192.0.2.1", "X-A: b"]
--- error_code eval
[200, 403, 403]



=== TEST 9: satisfy any: the address or the password
--- config
    location / {
        satisfy any;
        allow 10.0.0.0/8; deny all;
        auth_basic models; auth_basic_user_file ../html/users;
        llm_pass mock;
    }
--- http_config
    set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;
--- user_files
>>> users
alice:{PLAIN}wonder
--- pipelined_requests eval
[("GET /v1/models") x 4]
--- more_headers eval
["X-Forwarded-For: 10.1.2.3", "Authorization: Basic YWxpY2U6d29uZGVy",
 "X-A: b", "X-Forwarded-For: 10.1.2.3\nAuthorization: Basic YWxpY2U6Ym9i"]
--- error_code eval
[200, 200, 401, 200]



=== TEST 10: satisfy all: both, and a key by auth_request
--- config
    location / {
        satisfy all;
        allow 127.0.0.1; deny all;
        auth_request /check;
        llm_pass mock;
    }
    location /far/ {
        satisfy all;
        deny all;
        auth_request /check;
        llm_pass mock;
    }
    location = /check { internal; if ($llm_key != sk-1) { return 401; } return 204; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models", "GET /far/v1/models"]
--- more_headers eval
["api-key: sk-1", "api-key: sk-2", "api-key: sk-1"]
--- error_code eval
[200, 401, 403]
