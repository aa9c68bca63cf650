# limit_parallel.t - many requests at once on several workers never get more
# than there is, and in the end not a token is missing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";
use LLM::Limits;

my $n = LLM::Nginx->new(workers => 3, http => LOG . q{
    llm_limit_zone $http_x_key zone=tok:1m rate=1t/h;
    llm_limit_zone $http_x_key zone=all:1m rate=1t/h;
    llm_quota_zone $http_x_key zone=day:1m period=365d;
    }, location => 'access_log logs/limit.log limit; llm_limit zone=tok burst=1000;'
    . 'location /quota/ { llm_pass chat; llm_quota zone=day limit=1000; llm_limit zone=all burst=100000; }');
$n->start->wait_ready;

for my $case (['tok', '/v1/chat/completions'], ['day', '/quota/v1/chat/completions']) {
    my ($zone, $uri) = @$case;

    # 64 at once, each may take 100 of 1000: exactly ten pass.
    my @s = map { stream($n, $zone, uri => $uri, prompt_tokens => 40, tokens => 20,
        delay_ms => 30, first_ms => 500, max_tokens => 60) } 1 .. 64;
    my %status;
    my $tokens = 0;
    for my $s (@s) {
        my $r = $s->finish;
        $status{ $r ? $r->{status} : 'none' }++;
        $tokens += 100 if $r && $r->{status} == 200;
    }
    is_deeply(\%status, { 200 => 10, 429 => 54 }, "$zone: ten of 64 pass");
    cmp_ok($tokens, '<=', 1000, 'together they could not use more than there was');
    is(peek($n, $zone, 400, uri => $uri, prompt_tokens => 50_000), 400, 'they have used 10 x (40 + 20)');
}

# What 64 streams on several keys leave behind is what they have used, whether
# they were read to the end or not.
{
    my (%used, @s);
    for my $i (0 .. 63) {
        my $key = 'k' . $i % 8;
        push @s, [$key, stream($n, $key, prompt_tokens => 5, tokens => 3 + $i % 5,
            delay_ms => 10, max_tokens => 50), 5 + 3 + $i % 5];
    }
    my $passed = 0;
    for my $s (@s) {
        my $r = $s->[1]->finish;
        next if $r->{status} != 200;
        $passed++;
        $used{ $s->[0] } += $s->[2];
    }
    is($passed, 64, 'all pass: 8 x 55 a key are less than 1000');
    is(peek($n, $_, 1000 - $used{$_}), 1000 - $used{$_}, "$_ is charged what it has used")
        for sort keys %used;
}

# Every worker took part, or this has shown less than it says.
{
    my $workers = () = $n->log =~ /limiting tokens/g;
    my %pid = map { $_ => 1 } $n->log =~ /\[error\] (\d+)#\d+: \*\d+ limiting tokens/g;
    cmp_ok(scalar keys %pid, '>', 1, 'several workers refused (' . keys(%pid) . " of $workers)");
}

$n->stop->check_clean;
done_testing();
