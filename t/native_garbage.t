# native_garbage.t - requests with random damage: an answer is none, or whole.
#
# Each damaged request gets a status with a body as long as its Content-Length
# says, JSON in OpenAI's shape when it is an error, or a connection that ends.
# The worker is the same afterwards, and serves.
use strict;
use warnings;

use FindBin;
use JSON::PP;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $count = $ENV{TEST_LLM_GARBAGE} || 1000;
my $seed = $ENV{TEST_LLM_SEED} || time ^ $$;
srand $seed;
diag("seed $seed");

my $n = LLM::Nginx->new(workers => 1, http => 'llm_json_errors on; client_body_timeout 300ms;'
    . 'client_header_timeout 300ms; keepalive_timeout 300ms; lingering_timeout 300ms; '
    . 'large_client_header_buffers 2 1k; client_max_body_size 2k;'
    . 'map $llm_key $who { default ""; sk-1 alice; } limit_req_status 429;'
    . 'limit_req_zone $llm_key_id zone=k:1m rate=100r/s;',
    location => 'limit_req zone=k; if ($who = "") { return 401; }');
$n->start->wait_ready;
my ($worker) = $n->workers;

my @good = (
    "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-1\r\nConnection: close\r\n\r\n",
    "HEAD /v1/models HTTP/1.0\r\nx-api-key: sk-1\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\napi-key: sk-1\r\n"
    . "Content-Type: application/json\r\nContent-Length: 38\r\n\r\n{\"prompt\":\"hello\",\"mock\":{\"tokens\":1}}",
    "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: bearer sk-2\r\n"
    . "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n0\r\n\r\n",
);

sub damage {
    my ($text) = @_;
    for (1 .. 1 + int rand 4) {
        my $at = int rand length $text;
        my $how = int rand 6;
        if ($how == 0) { substr($text, $at, 1) = chr int rand 256; }
        elsif ($how == 1) { substr($text, $at, 1 + int rand 8) = ''; }
        elsif ($how == 2) { substr($text, $at, 0) = ("\r\n", "\0", ' ', ':', '%', '"', '\\')[rand 7]; }
        elsif ($how == 3) { substr($text, $at, 0) = 'x' x int rand 3000; }
        elsif ($how == 4) { substr($text, $at, 0) = substr $text, int rand length $text, 30; }
        else { $text = substr $text, 0, $at; }
        $text = 'G' if $text eq '';
    }
    return $text;
}

# What is wrong with an answer, '' for nothing.
sub wrong {
    my ($data, $request) = @_;
    $data =~ s{\AHTTP/1\.1 100 Continue\r\n\r\n}{};
    return '' if $data eq '';
    return '' if $data =~ /\A\{.*\}\n?\z/s && eval { decode_json($data) };   # HTTP/0.9
    return 'no status line' if $data !~ m{\AHTTP/1\.1 (\d{3}) };
    my $status = $1;
    my ($head, $body) = split /\r\n\r\n/, $data, 2;
    return 'no end of the header' if !defined $body;
    return '' if $status < 400 || $request =~ /\A[\r\n]*HEAD /;
    return 'no Content-Length' if $head !~ /^Content-Length: (\d+)\r?$/m;
    return "Content-Length $1, body " . length $body if length $body < $1;
    my $error = eval { decode_json(substr $body, 0, $1)->{error} };
    return "no JSON: $@" if !defined $error;
    return 'shape' if join(' ', sort keys %$error) ne 'code message param type';
    return 'no request id' if $head !~ /^X-Request-Id: [\w.-]+\r?$/mi;
    return "$status without Retry-After" if $status =~ /429|503/ && $head !~ /^Retry-After: \d+\r?$/m;
    return '';
}

my (%seen, @bad);
my @open;
local $SIG{PIPE} = 'IGNORE';
for my $i (1 .. $count) {
    my $request = damage($good[rand @good]);
    my $socket = $n->connect or next;
    print {$socket} $request;
    $socket->flush;
    push @open, [$socket, $request];
    next if @open < 50 && $i < $count;
    for my $pair (@open) {
        my $stream = bless { socket => $pair->[0], data => '' }, 'LLM::Nginx::Stream';
        $stream->read_until(undef, 5) or push @bad, "no end: $pair->[1]";
        my ($status) = $stream->{data} =~ m{\AHTTP/1\.1 (\d+)};
        $seen{ $status // 'closed' }++;
        my $why = wrong($stream->{data}, $pair->[1]);
        push @bad, "$why: $pair->[1]\n$stream->{data}" if $why;
    }
    @open = ();
}
is(scalar @bad, 0, "$count damaged requests") or diag(@bad > 3 ? @bad[0 .. 2] : @bad);
diag(join ', ', map { "$_: $seen{$_}" } sort keys %seen);
ok($seen{400} && $seen{401} && $seen{closed}, 'the damage was of many kinds');
is(($n->workers)[0], $worker, 'the worker is the same');
my $r = $n->get('/v1/models', headers => { Authorization => 'Bearer sk-1' });
is($r->{status}, 200, 'and serves');
$n->stop->check_clean;
done_testing();
