# limit_settle.t - a reservation is settled once, however its request ends.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";
use LLM::Limits;

# A bucket that does not leak while a test runs, and a quota beside it: the same
# numbers must come out of both.
my $http = q{
    llm_limit_zone $http_x_key zone=tok:1m rate=1t/h;
    llm_quota_zone $http_x_key zone=day:1m period=365d;
};
my $location = 'llm_limit zone=tok burst=1000; llm_quota zone=day limit=100000; }'
    . 'location /quota/ { llm_pass chat; llm_quota zone=day limit=1000; }'
    . 'location /bucket/ { llm_pass chat; llm_limit zone=tok burst=1000;';

sub both {
    my ($n, $key, $want, $name) = @_;
    is(peek($n, $key, $want, uri => '/bucket/v1/chat/completions'), $want, "$name: bucket");
    is(peek($n, $key, $want, uri => '/quota/v1/chat/completions'), $want, "$name: quota");
}

my $n = LLM::Nginx->new(http => $http, location => $location);
$n->start->wait_ready;

# The client leaves: prompt and what the engine has made by then.
{
    my $s = stream($n, 'abort', prompt_tokens => 100, tokens => 500, delay_ms => 20, max_tokens => 500);
    ok($s->read_until(qr/tok4 /), 'a stream runs');
    is(left($n, 'abort', uri => '/bucket/v1/chat/completions'), 400, 'reserved');
    $s->close;
    my $left;
    $n->wait_for(sub { $left = left($n, 'abort', uri => '/bucket/v1/chat/completions'); $left > 400 });
    cmp_ok($left, '<=', 895, 'client gone: charged the prompt and what was made');
    cmp_ok($left, '>=', 600, 'the rest comes back');
    both($n, 'abort', $left, 'client gone');
}

# It leaves before the first token: the prompt was asked for and counted.
{
    my $s = stream($n, 'early', prompt_tokens => 100, tokens => 5, first_ms => 60000, max_tokens => 5);
    ok($n->wait_for(sub { left($n, 'early', uri => '/bucket/v1/chat/completions') == 895 }), 'reserved');
    $s->close;
    both($n, 'early', 900, 'client gone early');
}

# What the engine says in the end counts, not what was reserved.
{
    ask($n, 'deadline', prompt_tokens => 100, tokens => 5, max_tokens => 50, finish => 'deadline');
    both($n, 'deadline', 895, 'deadline after five tokens');
    ask($n, 'numeric', prompt_tokens => 100, tokens => 0, max_tokens => 50, finish => 'numeric_error');
    both($n, 'numeric', 1000, 'failed without a token');
}

# The engine dies: what was delivered is charged, what was not is free.
{
    my $s = stream($n, 'lost', prompt_tokens => 100, tokens => 1000, delay_ms => 20, max_tokens => 800);
    my $w = stream($n, 'hang', prompt_tokens => 100, hang => 'request', max_tokens => 800);
    ok($s->read_until(qr/tok9 /), 'a stream runs');
    ok($n->wait_for(sub { left($n, 'hang', uri => '/bucket/v1/chat/completions') == 100 }), 'another waits');
    my $engine = $n->engine;
    kill 'KILL', $engine;
    my $r = $s->finish;
    my $events = () = $r->{body} =~ /tok\d+ /g;
    is($w->finish->{status}, 503, 'engine killed');
    ok($n->wait_for(sub { ($n->engine // 0) != $engine }), 'another is started');
    $n->wait_ready(15);
    $n->served('and serves');
    both($n, 'lost', 900 - $events, "lost after $events tokens");
    both($n, 'hang', 1000, 'lost before the first');
}

# A worker is killed: what it has reserved does not stay.
for my $round (1, 2) {
    my $key = "kill$round";
    my @s = map { stream($n, $key, prompt_tokens => 10, tokens => 1000, delay_ms => 20, max_tokens => 90) } 1 .. 6;
    ok($_->read_until(qr/tok2 /), 'a stream runs') for @s;
    is(left($n, $key, uri => '/bucket/v1/chat/completions'), 400, 'reserved');
    my @old = $n->workers;
    kill 'KILL', @old;
    my $tokens = 0;
    for my $s (@s) {
        $s->read_until(undef);
        my @t = $s->{data} =~ /tok\d+ /g;
        $tokens += @t;
    }
    ok($n->wait_for(sub { 2 == grep { my $p = $_; !grep { $p == $_ } @old } $n->workers }), 'workers killed, others started');
    $n->served('which serve');
    my $left;
    $n->wait_for(sub {
        $left = left($n, $key, uri => '/bucket/v1/chat/completions');
        defined $left && $left > 400;
    }, 5);
    cmp_ok($left, '<=', 1000 - 60 - $tokens, "at least the prompts and $tokens tokens are charged");
    cmp_ok($left, '>=', 1000 - 60 - $tokens - 6 * 10, 'and little more');
    both($n, $key, $left, 'killed');
}

# A leaving worker is killed: nobody is started in its place.
{
    my $s = stream($n, 'old', prompt_tokens => 10, tokens => 1000, delay_ms => 20, max_tokens => 990);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my @old = $n->workers;
    $n->reload;
    ok($n->wait_for(sub { 3 == $n->workers }), 'it holds a worker of the last generation')
        or diag(join ' ', $n->workers);
    is(peek($n, 'old', 0, uri => '/bucket/v1/chat/completions'), 0, 'the new ones see its reservation, all there is');
    kill 'KILL', @old;
    $s->read_until(undef);
    my $tokens = () = $s->{data} =~ /tok\d+ /g;
    # A refusal for want of tokens looks for the dead.
    my $left;
    ok($n->wait_for(sub {
        $left = left($n, 'old', uri => '/bucket/v1/chat/completions');
        defined $left && $left > 0;
    }, 5), 'comes back when somebody needs it');
    cmp_ok($left, '<=', 990 - $tokens, 'less what was delivered');
}

# Reload: a stream of the old workers settles in the same zone.
{
    my $s = stream($n, 'reload', prompt_tokens => 10, tokens => 50, delay_ms => 20, max_tokens => 190);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    $n->reload;
    is(peek($n, 'reload', 800, uri => '/bucket/v1/chat/completions'), 800, 'reserved for the new ones too');
    like($s->finish->{body}, qr/tok49 .*\[DONE\]/s, 'the stream is whole');
    both($n, 'reload', 940, 'settled by the old worker');
}

# A new rate counts from the reload on, on what is there.
{
    ask($n, 'rate', prompt_tokens => 600, tokens => 0, max_tokens => 1);
    is(peek($n, 'rate', 400, uri => '/bucket/v1/chat/completions'), 400, '600 are used');
    $n->write_conf(http => $http =~ s{1t/h}{1000t/s}r);
    $n->reload;
    is(peek($n, 'rate', 1000, uri => '/bucket/v1/chat/completions'), 1000, 'and leak at the new rate');
    $n->write_conf(http => $http =~ s/\$http_x_key zone=tok/\$http_x_other zone=tok/r);
    $n->reload;
    like($n->log, qr/\[emerg\].*zone "tok" uses the "\$http_x_other" key while previously it used the "\$http_x_key" key/, 'another key is refused');
    $n->write_conf(http => $http);
    $n->reload;
    ok($n->wait_for(sub { $n->workers == 2 }), 'old workers have gone');
}

# A worker that must leave at once settles what it cuts off.
{
    my $s = stream($n, 'term', prompt_tokens => 10, tokens => 1000, delay_ms => 20, max_tokens => 190);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    $n->stop('TERM');
    $n->check_clean(except => qr/exited on signal 9|uses the/);
}

done_testing();
