# server.t - how a block's nginx is configured, started, skipped and refused.
BEGIN { $ENV{STANDIN_VALUE} = 'from perl'; }
use Test::Nginx::Socket;

$ENV{TEST_NGINX_HTML_DIR} ||= html_dir();
env_to_nginx('STANDIN_VALUE', 'STANDIN_OTHER=word');
workers(2);
worker_connections(128);
repeat_each(2);
no_shuffle();

my $preprocessed = 0;
add_block_preprocessor(sub {
    my ($block) = @_;
    $preprocessed++;
    $block->set_value('request', 'GET /t') if !defined $block->request;
});
add_cleanup_handler(sub { $preprocessed = -1 });

plan tests => repeat_each() * 46;
run_tests();

__DATA__

=== TEST 1: sections of the configuration
--- main_config
    worker_rlimit_nofile 1000;
--- http_config
    map $arg_x $y { default no; 1 yes; }
--- config
    location = /t { return 200 "$y\n"; }
--- post_main_config
    worker_shutdown_timeout 1s;
--- request
GET /t?x=1
--- response_body
yes



=== TEST 2: the previous configuration stays when there is none
--- request
GET /t?x=2
--- response_body
no



=== TEST 3: the root location serves html/
--- config
--- request
GET /index.html
--- response_body_like: It works!



=== TEST 4: user_files
--- config
    location = /t { alias $TEST_NGINX_HTML_DIR/sub/b.txt; }
--- user_files
>>> a.txt
one
two
>>> sub/b.txt 202001020304.05
$TEST_NGINX_SERVER_PORT
--- request eval
["GET /a.txt", "GET /t"]
--- response_body eval
["one\ntwo\n", qr/^\d+$/]
--- response_headers eval
["Content-Length: 8", "Last-Modified: Thu, 02 Jan 2020 03:04:05 GMT"]



=== TEST 5: user_files as an array
--- config
--- user_files eval
[["x.txt", "X\0X"], ["y.txt", "Y", "202001020304.05"]]
--- request eval
["GET /x.txt", "GET /y.txt"]
--- response_body eval
["X\0X", "Y"]



=== TEST 6: server_name
--- config
    location = /t { return 200 "$server_name\n"; }
--- server_name: two.example.org
--- request
GET /t
--- response_body
two.example.org



=== TEST 7: a port of the block's own
--- http_config
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1; return 200 "other $server_port\n"; }
--- config
    location = /t { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
GET /t
--- response_body_like: ^other \d+$



=== TEST 8: nginx refuses
--- config
    location = /t { no_such_directive; }
--- must_die
--- suppress_stderr
--- error_log
unknown directive "no_such_directive"
--- no_error_log
[alert]



=== TEST 9: with this exit code
--- config
    location = /t { root; }
--- must_die: 1
--- suppress_stderr
--- error_log eval
qr/\[emerg\] .* invalid number of arguments in "root"/



=== TEST 10: the next block is not affected
--- config
    location = /t { return 200 "ok\n"; }
--- response_body
ok



=== TEST 11: init runs once, before the requests
--- config
    location = /t { alias $TEST_NGINX_HTML_DIR/init.txt; }
--- init
open my $out, '>>', "$Test::Nginx::Util::HtmlDir/init.txt";
print $out "x";
close $out;
--- request
GET /t
--- response_body chomp
x



=== TEST 12: post_setup_server_root may write into conf/
--- config
    location = /t { include extra.conf; }
--- post_setup_server_root
open my $out, '>', "$Test::Nginx::Util::ServRoot/conf/extra.conf";
print $out "return 200 extra;";
close $out;
--- request
GET /t
--- response_body chomp
extra



=== TEST 13: skipped on every nginx
--- config
    no_such_directive;
--- skip_nginx
4: >= 0.1.0: always
--- request
GET /t
--- response_body
never



=== TEST 14: skipped on none
--- config
    location = /t { return 200 "ok\n"; }
--- skip_nginx
2: < 0.8.54
--- response_body
ok



=== TEST 15: skip_eval
--- config
    no_such_directive;
--- skip_eval: 3: 1 + 1 == 2
--- response_body
never



=== TEST 16: skip_eval that is false
--- config
    location = /t { return 200 "ok\n"; }
--- skip_eval: 3: 0
--- response_body
ok



=== TEST 17: todo
--- config
    location = /t { return 200 "ok\n"; }
--- todo
2: not yet
--- response_body
never



=== TEST 18: SKIP
--- SKIP
--- config
    no_such_directive;
--- response_body
never



=== TEST 19: workers, connections and environment reach nginx.conf
--- config
    location = /t { alias $TEST_NGINX_SERVER_ROOT/conf/nginx.conf; }
--- request
GET /t
--- response_body_like
worker_processes\s+2;.*env STANDIN_VALUE;.*env STANDIN_OTHER=word;.*worker_connections\s+128;
