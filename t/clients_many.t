# clients_many.t - a thousand idle connections and three hundred streams: memory for each, and no stall.
#
# The small brother of `make bench-clients`.  A process of its own asks for
# nginx's own answer every 10 ms through the same worker; how long it ever waits
# is the longest stall of the event loop.  Bounds leave room for a busy machine.
use strict;
use warnings;

use FindBin;
use IO::Select;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";
local $SIG{PIPE} = 'IGNORE';

my ($idle, $streams) = (1000, 300);
my $need = 2 * ($idle + $streams) + 200;
my ($limit) = qx(bash -c 'ulimit -Hn') =~ /(\d+|unlimited)/;
if ($limit ne 'unlimited' && $limit < $need) {
    plan skip_all => "ulimit -Hn is $limit, $need descriptors are needed";
}
if (qx(bash -c 'ulimit -Sn') =~ /^(\d+)/ && $1 < $need) {
    exec 'bash', '-c', "ulimit -Sn $need && exec \"\$0\" \"\$@\"", $^X, map({ "-I$_" } @INC), $0;
}

my $n = LLM::Nginx->new(workers => 1, connections => 3000, main => 'worker_rlimit_nofile 4096;',
    http => 'keepalive_timeout 300s; keepalive_requests 1000000;');
$n->start->wait_ready;
$n->chat for 1 .. 20;
my ($worker) = $n->workers;

sub anon_bytes {
    open my $f, '<', "/proc/$worker/status" or die;
    my ($kb) = join('', <$f>) =~ /RssAnon:\s+(\d+) kB/;
    return $kb * 1024;
}

sub running {
    my ($v) = $n->get('/metrics')->{body} =~ /num_requests_running (\d+)/;
    return $v;
}

# The prober; tells the longest answer in ms when its pipe is closed.
pipe my $go, my $stop or die;
pipe my $result, my $told or die;
my $prober = fork // die;
if ($prober == 0) {
    close $stop;
    close $result;
    my $s = $n->connect;
    my ($longest, $count) = (0, 0);
    my $until = time + 60;
    while (time < $until && !IO::Select->new($go)->can_read(0.01)) {
        my $t = time;
        syswrite $s, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";
        my $data = '';
        while ($data !~ /\r\n\r\n.+/s) {
            sysread($s, $data, 4096, length $data) or last;
        }
        my $took = time - $t;
        $longest = $took if $took > $longest;
        $count++;
    }
    syswrite $told, sprintf "%.1f %d", $longest * 1e3, $count;
    require POSIX;
    POSIX::_exit(0);
}
close $go;
close $told;

my $before = anon_bytes();
my @idle;
for (1 .. $idle) {
    my $s = $n->connect or last;
    syswrite $s, LLM::Nginx::request_text('/v1/chat/completions',
        headers => { Connection => 'keep-alive' },
        body => LLM::Nginx::body(stream => 'false', tokens => 2));
    push @idle, $s;
}
my $answered = grep { my $data; sysread($_, $data, 4096) && $data =~ m{^HTTP/1.1 200} } @idle;
is($answered, $idle, "$idle connections are answered and stay");
my $with_idle = anon_bytes();
my $each = ($with_idle - $before) / $idle;
# AddressSanitizer puts room around everything.
my $more = $ENV{TEST_LLM_SANITIZED} ? 16 : 1;
cmp_ok($each, '<', 4096 * $more, sprintf 'an idle connection costs the worker %d bytes', $each);

my @streams = map { $n->stream(tokens => 100000, delay_ms => 200) } 1 .. $streams;
my $select = IO::Select->new(map { $_->{socket} } @streams);
my ($bytes, $until) = (0, time + 3);
while (time < $until) {
    for my $socket ($select->can_read(0.1)) {
        $bytes += sysread $socket, my $data, 65536;
    }
}
is(running(), $streams, "$streams streams run");
cmp_ok($bytes, '>', $streams * 1000, 'and each gets its tokens');
$each = (anon_bytes() - $with_idle) / $streams;
cmp_ok($each, '<', 32768 * $more, sprintf 'a stream costs the worker %d bytes', $each);

# All leave in one moment.
$_->close for @streams;
ok($n->wait_for(sub { running() == 0 }), 'all streams leave at once: the engine is idle');
close $_ for @idle;
sleep 0.3;
close $stop;
my ($longest, $count) = split ' ', <$result> // '';
waitpid $prober, 0;
cmp_ok($count, '>', 100, "the prober has asked $count times");
cmp_ok($longest, '<', 300, "and never waited longer than $longest ms");
ok($n->wait_for(sub { scalar(() = glob "/proc/$worker/fd/*") < 50 }), 'the worker has its descriptors back');
unlike($n->log, qr/has not ended a cancelled request/, 'no END was late');
is($n->chat->{status}, 200, 'and serves');
$n->stop->check_clean;
done_testing();
