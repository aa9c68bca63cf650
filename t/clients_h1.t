# clients_h1.t - HTTP/1 clients of every kind, and the nginx directives that stand between them and a stream.
#
# One nginx with one mock engine and a server per subject.  "At once" means: the
# first token is there while the last one has not been generated yet.
use strict;
use warnings;

use Compress::Raw::Zlib;
use FindBin;
use IO::Socket::IP;
use IO::Socket::UNIX;
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";
local $SIG{PIPE} = 'IGNORE';

my $ipv6 = IO::Socket::IP->new(LocalHost => '::1', Listen => 1) ? 1 : 0;
# Thread pools need epoll and an nginx that was built with them.
my $nginx = LLM::Nginx::find_nginx();
my $threads = qx($nginx -V 2>&1) =~ /--with-threads/
    && ($ENV{TEST_NGINX_EVENT_TYPE} || 'epoll') eq 'epoll' ? 'aio threads;' : '';
my %port;
my $http = 'large_client_header_buffers 4 16k; keepalive_timeout 20s;';

# server NAME, inside of server{}: a port of its own and a location for us.
sub server {
    my ($name, $server, $location, $listen) = @_;
    $port{$name} = LLM::Nginx::free_port();
    $listen //= '127.0.0.1:PORT';
    $listen =~ s/PORT/$port{$name}/;
    $http .= "server { listen $listen; $server location / { llm_pass chat; "
        . ($location // '') . " } }\n";
    return;
}

server('plain', '');
server('one', 'keepalive_requests 1;');
server('many', 'keepalive_requests 1000;');
server('linger', 'lingering_close always; lingering_time 1s; lingering_timeout 200ms;');
server('body', 'client_body_buffer_size 1k; client_max_body_size 6m;');
server('file', 'client_body_in_file_only clean; client_max_body_size 6m;');
server('single', 'client_body_in_single_buffer on; client_body_buffer_size 16k;');
server('limit', 'client_max_body_size 1000;');
server('patience', 'client_body_timeout 300ms; client_header_timeout 300ms;');
server('gzip', 'gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0;');
server('sub', "sub_filter 'tok' 'TOK'; sub_filter_types *; sub_filter_once off;");
server('addition', 'addition_types *; add_before_body /before; add_after_body /after;'
    . ' location = /before { return 200 "BEFORE "; } location = /after { return 200 " AFTER"; }');
server('buffers', "postpone_output 100000; output_buffers 8 64k; sendfile on; $threads tcp_nopush on;");
server('nochunk', 'chunked_transfer_encoding off;');
server('rate', '', 'limit_rate 3k; limit_rate_after 300;');
server('reset', 'reset_timedout_connection on;', 'llm_send_timeout 400ms; llm_buffer_size 4k;');
server('six', '', '', '[::1]:PORT') if $ipv6;
server('ssi', 'location = /page { default_type text/html; ssi on; return 200'
    . ' \'<!--#include virtual="/v1/models" -->|<!--#include virtual="/v1/models/none" -->|'
    . '<!--#include virtual="/version" -->|end\'; }'
    . ' location = /asked { auth_request /v1/models; llm_pass chat; llm_endpoint models; }'
    . ' location = /unasked { auth_request /v1/models/none; llm_pass chat; llm_endpoint models; }');
server('copy', 'location = /copy { internal; llm_pass chat; llm_endpoint chat_completions; }',
    'mirror /copy;');
for my $buffering (qw(on off)) {
    for my $header ('', 'proxy_ignore_headers X-Accel-Buffering;') {
        my $name = "proxy_$buffering" . ($header ? '_ignore' : '');
        $port{$name} = LLM::Nginx::free_port();
        $http .= "server { listen 127.0.0.1:$port{$name}; location / {"
            . " proxy_pass http://127.0.0.1:$port{plain}; proxy_buffering $buffering; $header } }\n";
    }
}

my $n = LLM::Nginx->new(workers => 1, http => '');
server('unix', '', '', "unix:$n->{dir}/http");
$n->write_conf(http => $http);
$n->start->wait_ready;

sub request {
    my ($mock, %h) = @_;
    my $version = delete $h{version} // '1.1';
    my $text = LLM::Nginx::request_text('/v1/chat/completions', body => LLM::Nginx::body(%$mock),
        headers => { Connection => 'keep-alive', %h });
    $text =~ s{HTTP/1\.1}{HTTP/$version};
    return $text;
}

sub open_port {
    my ($name) = @_;
    my $socket = $name eq 'unix' ? IO::Socket::UNIX->new(Peer => "$n->{dir}/http")
        : IO::Socket::IP->new(PeerHost => $name eq 'six' ? '::1' : '127.0.0.1',
            PeerPort => $port{$name}, Timeout => 5);
    die "no connection to $name: $!" if !$socket;
    return bless { socket => $socket, data => '' }, 'LLM::Nginx::Stream';
}

sub send_to {
    my ($name, $bytes) = @_;
    my $s = open_port($name);
    syswrite $s->{socket}, $bytes;
    return $s;
}

# Takes one whole response off the connection: {status, head, body} or undef.
sub take {
    my ($s, %o) = @_;
    $s->read_until(qr/\r\n\r\n/) or return undef;
    my ($head, $rest) = $s->{data} =~ /\A(.*?)\r\n\r\n(.*)\z/s;
    my ($status) = $head =~ m{^HTTP/1\.\d (\d+)};
    my $body = '';
    if ($o{head} || $status < 200) {
        # no body
    } elsif ($head =~ /content-length: (\d+)/i) {
        my $n = $1;
        $s->read_until(qr/\A.{@{[length($head) + 4 + $n]}}/s) if $n < 30000;
        $s->read_until(undef, 10) if $n >= 30000;
        $rest = substr $s->{data}, length($head) + 4;
        $body = substr $rest, 0, $n, '';
    } elsif ($head =~ /transfer-encoding: chunked/i) {
        while (1) {
            $s->read_until(qr/\A\Q$head\E\r\n\r\n.*\r\n0\r\n\r\n/s);
            $rest = substr $s->{data}, length($head) + 4;
            last;
        }
        while ($rest =~ s/^([0-9a-f]+)\r\n//i) {
            my $n = hex $1;
            $body .= substr $rest, 0, $n, '';
            substr($rest, 0, 2) = '';
            last if $n == 0;
        }
    } else {
        $s->read_until(undef, 10);
        $body = substr $s->{data}, length($head) + 4;
        $rest = '';
    }
    $s->{data} = $rest;
    return { status => $status, head => $head, body => $body };
}

sub running {
    my ($v) = $n->get('/metrics')->{body} =~ /num_requests_running (\d+)/;
    return $v;
}

my %short = (tokens => 3, delay_ms => 0);
my %slow = (tokens => 5, delay_ms => 100);

# A stream that is seen token by token; returns it.
sub at_once {
    my ($name, $what, %h) = @_;
    my $s = send_to($name, request({ %slow }, Connection => 'close', %h));
    $s->read_until(qr/tok0 /i);
    ok($s->{data} =~ /tok0 /i && $s->{data} !~ /tok4 /i, "$what: the first token comes at once");
    $s->read_until(undef, 5);
    like($s->{data}, qr/tok4 .*\[DONE\]/si, "$what: and the last one");
    return $s;
}

# ---- versions and connections -----------------------------------------------------
{
    my $s = at_once('plain', 'HTTP/1.0', version => '1.0');
    unlike($s->{data}, qr/transfer-encoding/i, 'HTTP/1.0 knows no chunks');
    $s = send_to('plain', request({ %short, stream => 'false' }, version => '1.0'));
    my $r = take($s);
    like($r->{head}, qr/connection: keep-alive/i, 'HTTP/1.0 may keep a connection with a length');
    syswrite $s->{socket}, request({ %short, stream => 'false' }, version => '1.0');
    is(take($s)->{status}, 200, 'and gets a second answer');
    $s = send_to('plain', request({ %short }, version => '1.0'));
    like(take($s)->{head}, qr/connection: close/i, 'but not behind a stream');

    $s = open_port('many');
    my $good = 0;
    for my $i (1 .. 50) {
        syswrite $s->{socket}, request({ %short, stream => $i % 2 ? 'true' : 'false' });
        my $r = take($s);
        $good++ if $r && $r->{status} == 200 && $r->{body} =~ /tok2/;
    }
    is($good, 50, 'fifty requests on one connection, streams and whole answers');

    $s = send_to('plain', request({ %short }) . request({ %short, stream => 'false' })
        . "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        . "HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        . request({ %slow }) . request({ %short, stream => 'false' }, Connection => 'close'));
    my @r = (take($s), take($s), take($s), take($s, head => 1), take($s), take($s));
    is(join(' ', map { $_ ? $_->{status} : 'none' } @r), '200 200 200 200 200 200',
        'six requests in one segment');
    like($r[0]{body}, qr/tok2 .*\[DONE\]/s, 'pipelined: the stream');
    like($r[1]{body}, qr/"content":"tok0 tok1 tok2 "/, 'pipelined: the whole answer behind it');
    like($r[2]{body}, qr/"list"/, 'pipelined: the list of models');
    like($r[3]{head}, qr/content-length: [1-9]/i, 'pipelined: HEAD, with the length of GET');
    like($r[4]{body}, qr/tok4 .*\[DONE\]/s, 'pipelined: another stream');
    like($r[5]{head}, qr/connection: close/i, 'pipelined: the last one');
    ok($s->read_until(undef, 3) && $s->{data} eq '', 'and nothing behind it');

    # Pipelined, and gone: what stands behind an aborted stream is never begun.
    $s = send_to('plain', request({ tokens => 500, delay_ms => 20 }) . request({ %short }));
    $s->read_until(qr/tok1 /);
    $s->close;
    ok($n->wait_for(sub { running() == 0 }), 'pipelined and gone: the engine is idle');

    $s = send_to('one', request({ %short }));
    like(take($s)->{head}, qr/connection: close/i, 'keepalive_requests');
    $s = send_to('linger', request({ %short }, Connection => 'close') . 'x' x 100);
    like(take($s)->{body}, qr/\[DONE\]/, 'lingering_close');
    at_once('unix', 'a Unix socket');
    SKIP: {
        skip 'no IPv6 here', 2 if !$ipv6;
        at_once('six', 'IPv6');
    }
}

# ---- bodies -----------------------------------------------------------------------
{
    # A body of so many bytes; the mock says how many came.
    my $padded = sub {
        my ($bytes) = @_;
        my $body = '{"mock":{"tokens":1,"echo":true},"user":""}';
        substr($body, -2, 0) = 'p' x ($bytes - length $body);
        return $body;
    };
    my $post = sub {
        my ($name, $body, %h) = @_;
        my $s = open_port($name);
        my $text = LLM::Nginx::request_text('/v1/chat/completions', body => $body, headers => \%h);
        my $at = 0;
        while ($at < length $text) {
            my $n = syswrite $s->{socket}, $text, 65536, $at;
            last if !$n;
            $at += $n;
        }
        return take($s);
    };
    for my $c (['plain', 200, 'in memory'], ['body', 200, 'small in a small buffer'],
        ['body', 1024, 'that fills the buffer'], ['body', 1025, 'one byte in a file'],
        ['body', 5 << 20, 'of 5 MB in a file'], ['file', 300, 'always in a file'],
        ['file', 3 << 20, 'of 3 MB always in a file'], ['single', 15000, 'in a single buffer'],
        ['single', 17000, 'larger than the single buffer'], ['limit', 1000, 'at the limit'])
    {
        my ($name, $bytes, $what) = @$c;
        my $r = $post->($name, $padded->($bytes)) || {};
        my ($got) = ($r->{body} // '') =~ /"body_bytes":(\d+)/;
        is($got, $bytes, "a body $what arrives whole");
    }
    is($post->('limit', $padded->(1001))->{status}, 413, 'one byte above the limit: 413');
    my $r = $post->('plain', '');
    is($r->{status}, 400, 'an empty body: 400');
    like($r->{body}, qr/"error"/, 'in JSON');
    $r = $post->('plain', '{');
    is($r->{status}, 400, 'half a document: 400');

    # Chunked, the chunks one by one and all at once.
    my $body = $padded->(3000);
    my @chunks = map { sprintf "%x\r\n%s\r\n", length $_, $_ } $body =~ /(.{1,500})/gs;
    my $head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        . "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    for my $name (qw(plain body file)) {
        my $s = send_to($name, $head);
        for my $chunk (@chunks, "0\r\n\r\n") {
            syswrite $s->{socket}, $chunk;
            sleep 0.005;
        }
        like(take($s)->{body}, qr/"body_bytes":3000\b/, "$name: chunks one by one");
        $s = send_to($name, $head . join('', @chunks, "0\r\n\r\n"));
        like(take($s)->{body}, qr/"body_bytes":3000\b/, "$name: chunks in one segment");
    }

    # Expect: 100-continue: asked for before the body, and with it.
    my $s = send_to('plain', LLM::Nginx::request_text('/v1/chat/completions', method => 'POST',
        headers => { Expect => '100-continue', 'Content-Type' => 'application/json',
            'Content-Length' => 3000 }));
    is(take($s)->{status}, 100, 'Expect: 100-continue');
    syswrite $s->{socket}, $body;
    like(take($s)->{body}, qr/"body_bytes":3000\b/, 'then the body, then the answer');
    $s = send_to('limit', LLM::Nginx::request_text('/v1/chat/completions', method => 'POST',
        headers => { Expect => '100-continue', 'Content-Type' => 'application/json',
            'Content-Length' => 3000 }));
    is(take($s)->{status}, 413, 'Expect of too much: 413 without a body');

    # A body byte by byte, and one that stops.
    $s = open_port('plain');
    my $text = request({ %short }, Connection => 'close');
    for my $byte (split //, $text) {
        syswrite $s->{socket}, $byte;
    }
    like(take($s)->{body}, qr/tok2 .*\[DONE\]/s, 'a request byte by byte');
    $s = send_to('patience', substr $text, 0, -5);
    ok($s->read_until(undef, 3), 'client_body_timeout: closed');
    $s = send_to('patience', substr $text, 0, 20);
    ok($s->read_until(undef, 3), 'client_header_timeout: closed');
    is($n->chat->{status}, 200, 'others are served');
}

# ---- filters and buffers ------------------------------------------------------------
{
    my $s = send_to('gzip', request({ %slow }, Connection => 'close', 'Accept-Encoding' => 'gzip',
        version => '1.0'));
    my ($inflate) = Compress::Raw::Zlib::Inflate->new(-WindowBits => WANT_GZIP);
    $s->read_until(qr/\r\n\r\n/);
    like($s->{data}, qr/content-encoding: gzip/i, 'gzip');
    my ($plain, $seen) = ('', 0);
    my $until = time + 5;
    substr($s->{data}, 0, index($s->{data}, "\r\n\r\n") + 4) = '';
    while (time < $until) {
        $inflate->inflate(my $in = $s->{data}, my $out);
        $plain .= $out // '';
        $s->{data} = '';
        $seen = 1 if $plain =~ /tok0 / && $plain !~ /tok4 /;
        last if $s->{eof} || $plain =~ /\[DONE\]/;
        $s->read_until(qr/./s, 2);
    }
    ok($seen, 'gzip: the first token comes at once');
    like($plain, qr/tok4 .*\[DONE\]\n\n\z/s, 'gzip: and the last one');
    $s = send_to('gzip', request({ %short, stream => 'false' }, 'Accept-Encoding' => 'gzip',
        Connection => 'close'));
    my $r = take($s);
    ($inflate) = Compress::Raw::Zlib::Inflate->new(-WindowBits => WANT_GZIP);
    $inflate->inflate(my $in = $r->{body}, my $out);
    like($out, qr/"content":"tok0 tok1 tok2 "/, 'gzip: a whole answer');

    like(at_once('sub', 'sub_filter')->{data}, qr/TOK4/, 'sub_filter: changed');
    like(at_once('addition', 'addition')->{data}, qr/BEFORE.*tok0 .*tok4 .*DONE.*AFTER/s,
        'addition: before and after');
    at_once('buffers', 'postpone_output, sendfile, aio threads');
    my $t = time;
    $s = at_once('nochunk', 'chunked_transfer_encoding off');
    unlike($s->{data}, qr/transfer-encoding/i, 'no chunks');
    $t = time;
    $s = send_to('rate', request({ tokens => 60 }, Connection => 'close'));
    like(take($s)->{body}, qr/tok59 .*\[DONE\]/s, 'limit_rate loses nothing');
    cmp_ok(time - $t, '>', 1.5, 'and slows');
}

# ---- another nginx in between -------------------------------------------------------
for my $name (qw(proxy_on proxy_off proxy_off_ignore)) {
    at_once($name, $name);
}
{
    my $s = send_to('proxy_on_ignore', request({ %slow }, Connection => 'close'));
    like(take($s)->{body}, qr/tok4 .*\[DONE\]/s, 'a proxy that buffers in spite of us: whole');
    for my $name (qw(proxy_on proxy_off)) {
        my $s = send_to($name, request({ tokens => 1000, delay_ms => 20 }, Connection => 'close'));
        $s->read_until(qr/tok1 /);
        is(running(), 1, "$name: a stream runs");
        $s->close;
        ok($n->wait_for(sub { running() == 0 }, 5), "$name: gone with the proxy's client");
    }
}

# ---- subrequests --------------------------------------------------------------------
{
    my $s = send_to('ssi', "GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    my $r = take($s);
    is($r->{status}, 200, 'SSI');
    like($r->{body}, qr/\A\{"object":"list".*\}\n?\|.*\|\{"version":"mock"\}\|end\z/s,
        'each include is whole, the page goes on');
    $s = send_to('ssi', "GET /asked HTTP/1.1\r\nHost: x\r\n\r\nGET /unasked HTTP/1.1\r\n"
        . "Host: x\r\nConnection: close\r\n\r\n");
    like(take($s)->{body}, qr/"list"/, 'auth_request asks the engine: yes');
    my $status = take($s)->{status};
    cmp_ok($status, '>=', 200, 'auth_request asks for a model that is not there: an answer');
    $s = at_once('copy', 'mirror');
    is(() = $s->{data} =~ /\[DONE\]/g, 1, 'mirror: one answer, not two');
    ok($n->wait_for(sub { running() == 0 }), 'mirror: both have ended');
}

# ---- a client that stops is reset, if nginx shall ------------------------------------
{
    my $s = send_to('reset', request({ tokens => 100000, bytes => 2000 }));
    ok($n->wait_for(sub { $n->log('access.log') =~ /slow_reader/ }), 'slow_reader');
    my ($got, $error) = (1, 0);
    while ($got) {
        $got = sysread $s->{socket}, my $chunk, 65536;
        $error = $! if !defined $got;
    }
    ok($error, 'reset_timedout_connection: the connection was reset');
}

$n->stop->check_clean;
done_testing();
