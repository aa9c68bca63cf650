# process_takeover.t - kill -9 of each party while one engine takes over from another.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# An nginx whose second engine is loading for a while.
sub begin {
    my ($delay) = @_;
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my %old = (engine => $n->engine, supervisor => $n->supervisor, standby => $n->standby);
    $n->write_conf(engines => { chat => "start_delay $delay; max_model_len 7;" });
    $n->reload;
    ok($n->wait_for(sub { $n->engines == 2 && $n->standby }), 'a second engine loads');
    ok($n->wait_for(sub { $n->workers == 2 }), 'for two new workers');
    return ($n, %old);
}

sub finished {
    my ($n, $name, $seconds) = @_;
    ok($n->wait_for(sub {
        my $r = $n->chat;
        $n->log =~ /is ready and takes over/ && $n->supervisors == 1 && $r->{status} == 200;
    }, $seconds || 20), $name) or diag($n->log_tail);
}

# The master: everybody leaves.
{
    my ($n) = begin(5000);
    kill 'KILL', $n->master;
    ok($n->wait_for(sub { !$n->left }), 'master killed: both engines go');
    is(join('', glob "$n->{dir}/*.sock*"), '', 'no socket is left');
    unlink "$n->{dir}/nginx.pid";
}

# The new engine while it loads: started again, takes over.
{
    my ($n, %old) = begin(800);
    kill 'KILL', $n->engine;
    my $r = $n->chat;
    is($r->{status}, 200, 'new engine killed: the old one serves');
    finished($n, 'the next one takes over');
    ok(!LLM::Nginx::alive($old{engine}), 'the old one has gone');
    $n->stop->check_clean;
}

# The new supervisor: its standby goes on.
{
    my ($n, %old) = begin(800);
    kill 'KILL', $n->supervisor;
    is($n->chat->{status}, 200, 'new supervisor killed: the old engine serves');
    finished($n, 'its standby finishes the work');
    ok(!LLM::Nginx::alive($old{engine}), 'the old one has gone');
    $n->stop->check_clean;
}

# New supervisor and standby: the old engine loses the only owner it had.
{
    my ($n, %old) = begin(3000);
    kill 'KILL', $n->standby, $n->supervisor;
    ok($n->wait_for(sub { !$n->supervisors }), 'new supervisor and standby killed: no engine');
    $n->reload;
    $n->wait_ready(15);
    $n->served('a reload starts it again');
    $n->stop->check_clean;
}

# The old engine: its supervisor starts it again, the new one comes as it would.
{
    my ($n, %old) = begin(2500);
    kill 'KILL', $old{engine};
    ok($n->wait_for(sub { my $r = $n->chat; $r->{status} == 200 && $n->log !~ /takes over/ }),
        'old engine killed: it comes back');
    finished($n, 'the new one takes over');
    $n->stop->check_clean;
}

# The old supervisor with its standby: gone, the new engine is waited for.
{
    my ($n, %old) = begin(1500);
    kill 'KILL', $old{standby}, $old{supervisor};
    ok($n->wait_for(sub { !LLM::Nginx::alive($old{engine}) }), 'old supervisor killed: no old engine');
    is($n->chat->{status}, 503, '503 until the new one is ready');
    ok($n->wait_for(sub { my $r = $n->chat; $r && $r->{status} == 200 }, 15), 'then 200');
    $n->stop->check_clean;
}

# The same, and the new one had been given up: it is tried again.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my @old = ($n->standby, $n->supervisor);
    $n->write_conf(engines => { chat => "fail_start 1; fail_file $n->{dir}/starts; exit_code 78;" });
    $n->reload;
    ok($n->wait_for(sub { $n->log =~ /goes on serving/ }), 'the new engine is given up');
    is($n->chat->{status}, 200, 'the old one serves');
    kill 'KILL', @old;
    $n->wait_ready(15);
    $n->served('the old one is killed with its supervisor: the new one is tried again');
    $n->stop->check_clean;
}

# Both workers: the next ones know both engines.
{
    my ($n, %old) = begin(2500);
    my @workers = $n->workers;
    kill 'KILL', @workers;
    ok($n->wait_for(sub { my $r = $n->chat; $r && $r->{status} == 200 && $n->log !~ /takes over/ }),
        'workers killed: the old engine serves the next ones');
    finished($n, 'the new one takes over');
    $n->stop->check_clean(except => qr/exited on signal 9/);
}

# QUIT, a removed block, a removed module, a failing reload in the middle of it.
{
    my ($n) = begin(5000);
    my $s = $n->stream(tokens => 20, delay_ms => 30);
    ok($s->read_until(qr/tok2 /), 'a stream runs on the old one');
    my $master = $n->master;
    kill 'QUIT', $master;
    like($s->finish->{body}, qr/tok19 .*\[DONE\]/s, 'QUIT lets it finish');
    ok($n->wait_for(sub { !LLM::Nginx::alive($master) }), 'then nginx ends');
    $n->check_clean;
}
{
    my ($n, %old) = begin(1500);
    $n->write_conf(http => 'nonsense;');
    $n->reload;
    like($n->log, qr/unknown directive "nonsense"/, 'a failing reload');
    is($n->chat->{status}, 200, 'changes nothing');
    $n->write_conf(http => '');
    $n->reload;
    finished($n, 'nor does one with the same options: it takes over');
    my $new = $n->engine;
    $n->write_conf(no_module => 1);
    $n->reload;
    ok($n->wait_for(sub { !grep { $_->[2] =~ /mock-engine/ } $n->left }), 'without the module: gone');
    ok(!LLM::Nginx::alive($new), 'the engine too');
    $n->stop->check_clean(except => qr/unknown directive/);
}

# A binary upgrade in the middle of it: the new master learns of both.
{
    my ($n, %old) = begin(4000);
    my ($master, $new) = ($n->master, $n->engine);
    kill 'USR2', $master;
    ok($n->wait_for(sub { my $m = $n->master; $m && $m != $master && $n->workers == 2 }),
        'USR2: a new master with workers');
    unlike($n->log, qr/takes over/, 'the new engine still loads');
    kill 'QUIT', $master;
    ok($n->wait_for(sub { !LLM::Nginx::alive($master) }), 'the old master goes');
    my %status;
    $n->wait_for(sub { $status{ $n->chat->{status} }++; $n->log =~ /is ready and takes over/ });
    is(join(',', sort keys %status), '200', 'nothing but 200 from the new master');
    finished($n, 'the new engine takes over');
    is($n->engine, $new, 'the one that the old master had started');
    $n->stop->check_clean;
}

done_testing();
