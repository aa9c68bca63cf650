# route_kill.t - an engine is killed under load: who has seen nothing goes to
# another engine, who has is told, and the others notice nothing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

sub start {
    my (%o) = @_;
    my $n = LLM::Nginx->new(engines => { a => '', b => '', spare => '' }, workers => 1,
        http => 'llm_model chat a b fallback=other; llm_model other spare;',
        location => 'add_header X-Engine $llm_engine always;', %o);
    $n->start;
    $n->wait_ready(20);
    return $n;
}

sub engine_of { return $_[0] =~ /^X-Engine: ([^\r\n]*)/m ? $1 : 'none' }

sub count { my ($n, $what) = @_; my $c = () = $n->log =~ /$what/g; return $c }

subtest 'before the first token nobody gets an error' => sub {
    my $n = start();
    my @streams = map { $n->stream(tokens => 3, first_ms => 1000) } 1 .. 8;
    ok($n->wait_for(sub {
        my $r = $n->get('/metrics') or return 0;
        my ($running) = $r->{body} =~ /^vllm:num_requests_running (\d+)/m;
        defined $running && $running == 4;
    }), 'four of eight are in an engine');
    kill 'KILL', $n->engine('a');
    my %share;
    for my $s (@streams) {
        my $r = $s->finish;
        is($r->{status}, 200, 'a stream begins');
        like($r->{body}, qr/tok0 .*tok1 .*tok2 .*data: \[DONE\]/s, 'and is whole');
        $share{engine_of($r->{head})}++;
    }
    is_deeply(\%share, { b => 4, 'a, b' => 4 }, 'those of the killed one have moved');
    is(count($n, qr/engine "a" was lost, request \S+ goes to engine "b"/), 4, 'each is logged');
    $n->served('and the engine comes back');
    $n->stop;
    $n->check_clean;
};

subtest 'after it only those of that engine are told' => sub {
    my $n = start();
    my @streams = map { $n->stream(tokens => 40, delay_ms => 20) } 1 .. 8;
    $_->read_until(qr/tok0 /) for @streams;
    kill 'KILL', $n->engine('a');
    my %end;
    for my $s (@streams) {
        my $r = $s->finish;
        my $how = $r->{body} =~ /tok39 .*\[DONE\]/s ? 'whole'
            : $r->{body} =~ /"code":"engine_lost"\}\}\n\n$/ ? 'lost' : 'neither';
        $end{engine_of($r->{head}) . " $how"}++;
    }
    is_deeply(\%end, { 'b whole' => 4, 'a lost' => 4 }, 'four and four');
    is(count($n, qr/goes to engine/), 0, 'nothing was done twice');
    $n->stop;
    $n->check_clean;
};

subtest 'all engines of the model: the fallback, then none' => sub {
    my $n = start();
    my @streams = map { $n->stream(tokens => 2, first_ms => 600) } 1 .. 6;
    kill 'KILL', map { ($n->supervisor($_), $n->standby($_) // (), $n->engine($_)) } qw(a b);
    for my $s (@streams) {
        my $r = $s->finish;
        like("$r->{status} $r->{body}", qr/^200 .*\[DONE\]/s, 'served');
        like(engine_of($r->{head}), qr/^(?:[ab], ){0,2}spare$/, 'by the fallback');
    }
    kill 'KILL', grep { defined } $n->supervisor('spare'), $n->standby('spare'), $n->engine('spare');
    my $r;
    ok($n->wait_for(sub { $r = $n->chat; $r && $r->{status} == 503 }), 'nobody is left');
    like($r->{body}, qr/"code":"engine_(?:unavailable|lost)"/, 'which is said');
    $n->stop;
    $n->check_log;
};

subtest 'an engine that stands still is left, and taken again when it moves' => sub {
    my $n = start(http => 'llm_model chat a b fallback=other; llm_model other spare; llm_engine_timeout 1s;');
    my @streams = map { $n->stream(tokens => 3, first_ms => 900) } 1 .. 4;
    my $a = $n->engine('a');
    kill 'STOP', $a;
    my %share;
    for my $s (@streams) {
        my $r = $s->finish;
        like("$r->{status} $r->{body}", qr/^200 .*tok2 .*\[DONE\]/s, 'served');
        $share{engine_of($r->{head})}++;
    }
    is_deeply(\%share, { b => 2, 'a, b' => 2 }, 'its requests have moved');
    is(count($n, qr/engine "a" has not answered in time, request/), 2, 'as it says');
    is(engine_of($n->chat->{head}), 'b', 'it is not asked') for 1 .. 4;
    kill 'CONT', $a;
    ok($n->wait_for(sub { engine_of($n->chat->{head}) eq 'a' }), 'it is asked again');
    $n->stop;
    $n->check_clean;
};

subtest 'an engine that ends in an orderly way finishes, and gets nothing new' => sub {
    my $n = start();
    my @streams = map { $n->stream(tokens => 60, delay_ms => 20) } 1 .. 4;
    $_->read_until(qr/tok0 /) for @streams;
    kill 'TERM', $n->engine('a');
    ok($n->wait_for(sub { join('', map { engine_of($n->chat->{head}) } 1 .. 4) eq 'bbbb' }),
        'new requests go to the other');
    for my $s (@streams) {
        like($s->finish->{body}, qr/tok59 .*\[DONE\]/s, 'a stream ends as it should');
    }
    $n->stop;
    $n->check_clean;
};

subtest 'one request that is refused or broken moves alone' => sub {
    my $n = start();
    my @streams = map { $n->stream(tokens => 30, delay_ms => 20) } 1 .. 6;
    $_->read_until(qr/tok0 /) for @streams;
    my @refused = map { $n->chat(refuse => 'true', at => 'nobody') } 1 .. 2;
    is($_->{status}, 200, 'a fault meant for another engine') for @refused;
    my $r = $n->chat(refuse => 'true');
    is($r->{status}, 503, 'refused everywhere');
    is(scalar(split /, /, engine_of($r->{head})), 3, 'three engines were asked, each once');
    for my $s (@streams) {
        like($s->finish->{body}, qr/tok29 .*\[DONE\]/s, 'a stream beside it is whole');
    }
    $n->stop;
    $n->check_clean;
};

done_testing();
