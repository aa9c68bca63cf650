# process_log.t - the engine's words are in nginx's error log, wherever that is.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# Lines of a process in a log file.
sub lines_of {
    my ($n, $pid, $file) = @_;
    return grep { /\] \Q$pid\E#\d+: llm: / } split /\n/, $n->log($file);
}

# logrotate: the file is moved, nginx gets USR1 and makes a new one.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my ($engine, $supervisor) = ($n->engine, $n->supervisor);
    ok(scalar(lines_of($n, $engine)), 'the engine writes to the error log');

    for my $round (1, 2) {
        my $old = "error.log.$round";
        rename "$n->{dir}/logs/error.log", "$n->{dir}/logs/$old" or die $!;
        kill 'USR1', $n->master;
        ok($n->wait_for(sub { -e "$n->{dir}/logs/error.log" }), "USR1 ($round): a new file");
        my $size = -s "$n->{dir}/logs/$old";
        kill 'KILL', $n->engine;
        ok($n->wait_for(sub { $n->log =~ /engine \d+ ended by signal 9/ }),
            "USR1 ($round): the supervisor writes to it");
        $n->wait_ready(15);
        ok($n->wait_for(sub { lines_of($n, $n->engine) }),
            "USR1 ($round): the new engine too");
        unlike(substr($n->log($old), $size), qr/: llm: /, "USR1 ($round): not to the old one");
    }

    # An engine that has been there all the time.
    my $same = $n->engine;
    rename "$n->{dir}/logs/error.log", "$n->{dir}/logs/error.log.3" or die $!;
    kill 'USR1', $n->master;
    ok($n->wait_for(sub { -e "$n->{dir}/logs/error.log" }), 'USR1: a new file');
    $n->write_conf(engines => { chat => 'max_model_len 9;' });
    $n->reload;
    ok($n->wait_for(sub { lines_of($n, $same) }), 'a running engine writes to the new one');
    ok($n->wait_for(sub { $n->supervisors == 1 }), 'it was its good-bye');
    is($n->supervisor != $supervisor, 1, 'and its supervisor has gone with it');
    $n->stop->check_clean;
}

# A reload with another error_log.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my ($engine) = ($n->engine);
    my $conf = "$n->{dir}/nginx.conf";
    open my $in, '<', $conf or die $!;
    my $text = join '', <$in>;
    close $in;
    $text =~ s{logs/error\.log info}{logs/other-error.log info};
    open my $out, '>', $conf or die $!;
    print {$out} $text;
    close $out;
    kill 'HUP', $n->master;
    ok($n->wait_for(sub { $n->log('other-error.log') =~ /start worker process/ }), 'another error_log');
    is($n->engine, $engine, 'the same engine');
    kill 'KILL', $engine;
    ok($n->wait_for(sub { $n->log('other-error.log') =~ /engine $engine ended by signal 9/ }),
        'the supervisor has moved to it');
    ok($n->wait_for(sub { my $e = $n->engine; $e && lines_of($n, $e, 'other-error.log') }),
        'so has the engine');
    unlike($n->log, qr/ended by signal 9/, 'nothing in the old one');
    $n->stop->check_clean;
}

# The last words of an engine come before the news of its death.
{
    my $n = LLM::Nginx->new;
    $n->write_conf(engines => { chat => 'exit_after oops;' });
    $n->start;
    ok($n->wait_for(sub { $n->log =~ /exited with code 78/ }), 'an engine that says why it ends');
    like($n->log, qr/--exit-after: bad value.*exited with code 78/s, 'says it first');
    $n->stop->check_clean;
}

done_testing();
