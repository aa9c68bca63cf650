# quota_state.t - llm_quota: periods, refusals, and what survives what.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";
use LLM::Limits;

sub spew { open my $f, '>', $_[0] or die "$_[0]: $!"; print {$f} $_[1]; close $f; return }
sub slurp { open my $f, '<', $_[0] or return ''; local $/; return <$f> }

my $zones = q{
    map $http_x_key $daily { default 1000; rich 5000; free ""; broken many; none 0; }
    llm_quota_zone $http_x_key zone=year:1m period=365d state=quota.state save=100ms;
    llm_quota_zone $http_x_key zone=short:1m period=2s;
    llm_quota_zone $http_x_key zone=month:1m period=1M;
    llm_quota_zone $http_x_key zone=tiny:32k period=365d;
};
my $location = 'llm_quota zone=year limit=$daily; }'
    . 'location /short/ { llm_pass chat; llm_quota zone=short limit=100 status=403; }'
    . 'location /month/ { llm_pass chat; llm_quota zone=month limit=1000 type=completion; }'
    . 'location /tiny/ { llm_pass chat; llm_quota zone=tiny limit=1000;';

my $n = LLM::Nginx->new(workers => 2, http => $zones, location => $location);
my $file = "$n->{dir}/quota.state";
$n->start->wait_ready;

# The refusal.
{
    my $r = ask($n, 'a', prompt_tokens => 100, tokens => 50, max_tokens => 400);
    is($r->{status}, 200, 'a request passes');
    is(remaining($r), 500, 'with its reservation');
    is(header($r, 'x-ratelimit-limit-tokens'), 1000, 'the header shows the quota');
    like(header($r, 'x-ratelimit-reset-tokens'), qr/^\d+h\d+m\d+s$/, 'and when it begins again');
    is(left($n, 'a'), 850, 'settled');
    $r = ask($n, 'a', prompt_tokens => 100, tokens => 50, max_tokens => 800);
    is($r->{status}, 429, 'more than is left');
    like($r->{body}, qr/^\{"error":\{"message":"You exceeded your quota of tokens per 365d: Limit 1000, Used 150, Requested 900\. It resets at \d{4}-\d\d-\d\dT00:00:00Z\.","type":"insufficient_quota","param":null,"code":"insufficient_quota"\}\}\n$/, 'says when it resets');
    cmp_ok(header($r, 'Retry-After'), '>', 0, 'Retry-After');
    is(header($r, 'X-Should-Retry'), 'false', 'clients shall not wait for it');
}

# The limit is a variable.
{
    is(left($n, 'rich'), 5000, 'a map gives another limit');
    is(ask($n, 'free', prompt_tokens => 100_000)->{status}, 200, 'an empty one is none');
    is(ask($n, 'broken')->{status}, 500, 'a broken one is an error');
    like($n->log, qr/\[error\].*invalid quota "many" of zone "year"/, 'which the log explains');
    my $r = ask($n, 'none', prompt_tokens => 1, tokens => 0);
    is($r->{status}, 429, 'zero is nothing');
    like(message($r), qr/Limit 0, Used 0/, 'and says so');
}

# Periods end; what began before does not count afterwards.
{
    my %o = (uri => '/short/v1/chat/completions', tokens => 1, max_tokens => 1);
    my $passed = 0;
    ok($n->wait_for(sub {
        my $r = ask($n, 'p', %o, prompt_tokens => 99);
        $passed++ if $r->{status} == 200;
        $passed && $r->{status} == 403;
    }, 8), 'used up, with status=403');
    ok($n->wait_for(sub { ask($n, 'p', %o, prompt_tokens => 99)->{status} == 200 }, 8),
        'after two seconds there is a new period');
    my $s = stream($n, 'q', uri => '/short/v1/chat/completions', prompt_tokens => 10, tokens => 60, delay_ms => 50, max_tokens => 60);
    $s->finish;
    is(peek($n, 'q', 100, uri => '/short/v1/chat/completions'), 100,
        'a stream longer than the period belongs to the one it began in');
    my $r = ask($n, 'm', uri => '/month/v1/chat/completions', prompt_tokens => 10, tokens => 60, max_tokens => 60);
    like(header($r, 'x-ratelimit-reset-tokens'), qr/^(?:\d+h)?\d+m\d+s$/, 'a month of the calendar');
    my (undef, undef, undef, undef, $mon, $year) = gmtime;
    ($mon, $year) = $mon == 11 ? (1, $year + 1901) : ($mon + 2, $year + 1900);
    $r = ask($n, 'm', uri => '/month/v1/chat/completions', prompt_tokens => 10, tokens => 60, max_tokens => 960);
    my $first = sprintf '%04d-%02d-01T00:00:00Z', $year, $mon;
    like(message($r), qr/completion tokens per 1M: Limit 1000, Used 60, Requested 960\. It resets at \Q$first\E/, 'resets on its first day');
}

# A full zone: who is known goes on, who is new is refused; nobody is forgotten.
{
    my $uri = '/tiny/v1/chat/completions';
    is(ask($n, 'first', uri => $uri, prompt_tokens => 10, tokens => 1)->{status}, 200, 'the first key');
    my ($full, $i) = (0, 0);
    while (!$full && $i++ < 400) {
        my $r = ask($n, 'x' x 200 . $i, uri => $uri, prompt_tokens => 10, tokens => 1);
        $full = $r->{status} == 503;
    }
    ok($full, "after $i keys there is no room");
    like($n->log, qr/\[error\].*no room for another key in zone "tiny"/, 'the log says so');
    is(peek($n, 'first', 989, uri => $uri), 989, 'the first key is still known');
}

# Restart.
{
    ask($n, "odd key%\x7f=1", prompt_tokens => 40, tokens => 2, max_tokens => 2);
    $n->stop;
    like(slurp($file), qr/^nginx-llm-quota 1 \d+\n(?:.*\n)*150 a\n/, 'the state file');
    is((stat $file)[2] & 0777, 0600, 'is nobody else\'s');
    ok(!-e "$file.new", 'no half of one is left');
    $n->start->wait_ready;
    is(left($n, 'a'), 850, 'survives a restart');
    is(left($n, "odd key%\x7f=1"), 958, 'and so does a key of odd bytes');
    is(left($n, 'first', uri => '/tiny/v1/chat/completions'), 1000, 'a zone without a file starts empty');
}

# kill -9 of everything: what was saved is there.
{
    ask($n, 'a', prompt_tokens => 30, tokens => 0, max_tokens => 1);
    ok($n->wait_for(sub { slurp($file) =~ /^180 a$/m }), 'saved by the timer');
    my @pids = ($n->master, $n->workers);
    kill 'KILL', @pids;
    ok($n->wait_for(sub { !$n->left }, 10), 'all killed');
    unlink "$n->{dir}/nginx.pid";
    $n->start->wait_ready;
    is(left($n, 'a'), 820, 'survives');
}

# Reload keeps the zone; a second master (binary upgrade) shares the file.
{
    $n->reload;
    is(left($n, 'a'), 820, 'a reload changes nothing');
    my $old = $n->master;
    kill 'USR2', $old;
    ok($n->wait_for(sub { my $m = $n->master; $m && $m != $old }), 'binary upgrade: a second master');
    # Both count; each hears of the other through the file.
    for (1 .. 10) {
        ask($n, 'both', prompt_tokens => 10, tokens => 0, max_tokens => 1);
    }
    ok($n->wait_for(sub { slurp($file) =~ /^100 both$/m }), 'their counts add up in the file')
        or diag(slurp($file));
    is(peek($n, 'both', 900), 900, 'and in a worker');
    kill 'QUIT', $old;
    ok($n->wait_for(sub { !LLM::Nginx::alive($old) }), 'the old master leaves');
    is(peek($n, 'both', 900), 900, 'nothing is counted twice');
    is(left($n, 'a'), 820, 'and nothing is lost');
}

# Files that are no good: a warning, an empty start.
for my $case (['cut', sub { substr $_[0], 0, -20 }], ['changed', sub { $_[0] =~ s/^180 a/1 a/mr }],
    ['foreign', sub { "hello\n" }], ['empty', sub { '' }])
{
    my ($name, $damage) = @$case;
    my $good = slurp($file);
    $n->stop;
    $good = slurp($file);
    spew($file, $damage->($good));
    my $warnings = () = $n->log =~ /is corrupt and is ignored/g;
    $n->start->wait_ready;
    is(left($n, 'a'), 1000, "$name: starts empty");
    my $now = () = $n->log =~ /\[warn\].*quota state ".*" is corrupt and is ignored/g;
    cmp_ok($now, '>', $warnings, 'with a warning');
    my ($rc, $said) = $n->nginx('-t');
    is($rc, 0, 'and nginx -t is fine');
    ask($n, 'new', prompt_tokens => 7, tokens => 0, max_tokens => 1);
    ok($n->wait_for(sub { slurp($file) =~ /^7 new$/m }), 'it is replaced');
    $n->stop;
    spew($file, $good);
    $n->start->wait_ready;
    is(left($n, 'a'), 820, 'a good one is read again');
}

# A file of another period.
{
    $n->stop;
    my $good = slurp($file);
    $n->write_conf(http => $zones =~ s/zone=year:1m period=365d/zone=year:1m period=1h/r);
    $n->start->wait_ready;
    is(left($n, 'a'), 1000, 'a file of another period does not count');
    $n->stop;
}

# A directory that is not there is made; deeper ones are not: an error in the
# log, and service.
{
    $n->write_conf(http => $zones =~ s{state=quota.state}{state=made/quota.state}r);
    $n->start->wait_ready;
    ask($n, 'a', prompt_tokens => 30, tokens => 0, max_tokens => 1);
    $n->stop;
    like(slurp("$n->{dir}/made/quota.state"), qr/^30 a$/m, 'the directory is made');
    $n->write_conf(http => $zones =~ s{state=quota.state}{state=no/such/quota.state}r);
    $n->start->wait_ready;
    is(ask($n, 'a', prompt_tokens => 30, tokens => 0)->{status}, 200, 'nginx serves');
    ok($n->wait_for(sub { $n->log =~ /\[error\].*\/no\/such\/quota.state.lock" failed, quotas are not saved/ }), 'and complains');
    $n->stop;
}

$n->check_clean(except => qr/exited on signal 9/);
done_testing();
