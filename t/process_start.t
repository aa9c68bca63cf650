# process_start.t - start, -t, stop, with every form of process that nginx has.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# nginx -t runs init_module too; nothing may come of it.
{
    my $n = LLM::Nginx->new;
    my ($rc, $said) = $n->nginx('-t');
    is($rc, 0, '-t accepts the configuration') or diag($said);
    is(scalar($n->left), 0, '-t starts nothing');
    is(join('', glob "$n->{dir}/*.sock*"), '', '-t makes no socket');
}

for my $case (['on', 'on', 'QUIT'], ['on', 'on', 'TERM'], ['off', 'on', 'QUIT'],
              ['off', 'off', 'QUIT'], ['on', 'off', 'TERM'])
{
    my ($daemon, $master, $signal) = @$case;
    my $name = "daemon $daemon, master_process $master, $signal";
    my $n = LLM::Nginx->new(daemon => $daemon, master => $master);
    $n->start->wait_ready;
    my $r = $n->chat;
    is($r->{status}, 200, "$name: answers");
    like($r->{body}, qr/tok4/, "$name: what the engine said");
    ok($n->supervisor && $n->standby && $n->engine, "$name: three processes");
    open my $f, '<', '/proc/' . $n->engine . '/environ';
    my $env = join '', <$f>;
    like($env, qr/LISTEN_FDNAMES=llm\0/, "$name: the engine has its socket");
    unlike($env, qr/(?:^|\0)(?:HOME|USER|SHELL|PWD)=/, "$name: and no environment of ours");
    my @fds = map { readlink } glob '/proc/' . $n->engine . '/fd/*';
    is(scalar(grep { /pipe:/ } @fds), 0, "$name: and nobody's pipe");
    $n->stop($signal)->check_clean;
}

# A stream that runs when QUIT comes is finished, a second master may start.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $s = $n->stream(tokens => 20, delay_ms => 30);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my $master = $n->master;
    kill 'QUIT', $master;
    my $r = $s->finish;
    like($r->{body}, qr/tok19 .*\[DONE\]/s, 'QUIT lets it finish');
    ok($n->wait_for(sub { !LLM::Nginx::alive($master) }), 'then nginx ends');
    $n->check_clean;
    $n->start->wait_ready;
    $n->served('and starts again in the same place');
    $n->stop->check_clean;
}

# Configurations that cannot work are refused while nginx can still say so.
for my $case (
    ['binary /nonexistent/engine;', qr/cannot be executed/],
    ['server tcp:1;', qr/takes "unix:/],
    ['server unix:/x; model y;', qr/no other line can have an effect/],
    ['Max_len 3;', qr/invalid engine option/],
    ['socket ' . 'x' x 120 . ';', qr/the limit is/],
    ['shutdown_timeout never;', qr/invalid "shutdown_timeout"/],
    ['server unix:/x; server unix:/y;', qr/duplicate "server" of engine "chat" in \S+:\d+/],
    ['socket x; binary /bin/true; socket y;', qr/duplicate "socket" of engine "chat" in \S+:\d+/],
    $> ? () : ['binary /bin/true; user no-such-user;', qr/getpwnam\("no-such-user"\) of engine "chat" failed in \S+:\d+/],
    ['binary /bin/true; socket s; } llm_engine b { binary /bin/true; socket s;',
        qr/engines "chat" and "b" share the socket "\S+\/s" in \S+:\d+/],
) {
    my ($lines, $want) = @$case;
    my $n = LLM::Nginx->new(engines => {}, http => "llm_engine chat { $lines }");
    my ($rc, $said) = $n->nginx('-t');
    isnt($rc, 0, "refused: " . substr $lines, 0, 30);
    like($said, $want, '... with the reason');
}
{
    my $n = LLM::Nginx->new(engines => { other => '' });
    my ($rc, $said) = $n->nginx('-t');
    like($said, qr/no "llm_engine chat" is defined.* in \S+:\d+/, 'a name nobody defines');
}

done_testing();
