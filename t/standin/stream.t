# stream.t - timeouts are per gap, so a test can tell a stream from a buffered answer.
use Test::Nginx::Socket;
use IO::Socket::INET ();
use Time::HiRes ();

# An HTTP server that sends five events 200 ms apart.
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp',
    Listen => 64, ReuseAddr => 1) or die "listen: $!";
$ENV{TEST_NGINX_SLOW_PORT} = $listener->sockport;
my $parent = $$;
my $pid = fork // die "fork: $!";
if ($pid == 0) {
    $SIG{CHLD} = 'IGNORE';
    $SIG{ALRM} = sub { POSIX::_exit(0) };
    alarm 120;
    while (1) {
        my $client = $listener->accept or next;
        next if fork;
        $client->autoflush(1);
        while (defined(my $line = <$client>)) {
            last if $line =~ /^\r?\n$/;
        }
        print {$client} "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        for my $n (1 .. 5) {
            Time::HiRes::sleep(0.2);
            last if !print {$client} "data: $n\n\n";
        }
        POSIX::_exit(0);
    }
}
close $listener;
add_cleanup_handler(sub { kill KILL => $pid if $$ == $parent });

repeat_each(1);
plan tests => 12;
run_tests();

__DATA__

=== TEST 1: a stream longer than the timeout passes
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_SLOW_PORT;
        proxy_buffering off;
    }
--- request
GET /t
--- timeout: 0.5
--- response_headers
Content-Type: text/event-stream
--- response_body eval
join '', map { "data: $_\n\n" } 1 .. 5
--- no_error_log
[error]



=== TEST 2: the client goes away in mid-stream
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_SLOW_PORT;
        proxy_buffering off;
    }
--- request
GET /t
--- timeout: 50ms
--- abort
--- ignore_response
--- wait: 0.5
--- error_log
client prematurely closed connection
--- no_error_log
[alert]



=== TEST 3: what arrived before the abort can be looked at
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_SLOW_PORT;
        proxy_buffering off;
        proxy_ignore_client_abort on;
    }
--- raw_request eval
"GET /t HTTP/1.0\r\n\r\n"
--- timeout: 0.1
--- abort
--- response_body chomp
--- no_error_log
[crit]



=== TEST 4: the client stops sending, nginx takes it for an abort
--- config
    location = /t {
        proxy_pass http://127.0.0.1:$TEST_NGINX_SLOW_PORT;
        proxy_buffering off;
    }
--- request
GET /t
--- shutdown
--- ignore_response
--- wait: 0.3
--- error_log
client prematurely closed connection
--- no_error_log
[alert]
[emerg]
