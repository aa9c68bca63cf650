# route_nodes.t - conf/nodes.conf with three real nginx: conversations stay on
# their node, also when another one goes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my @nodes = map { LLM::Nginx->new(workers => 1, location => "add_header X-Node $_ always;") } 1, 2;
for my $node (@nodes) {
    $node->start;
    $node->wait_ready;
}

my $balancer = LLM::Nginx->new(daemon => 'off', engines => {});
$balancer->use_conf('nodes.conf', ENGINE => '-', sub {
    my ($text) = @_;
    $text =~ s/# the nodes: begin.*# the nodes: end//s;
    $text =~ s/unix:\S*node-(\d)\.sock/127.0.0.1:$nodes[$1 - 1]{port}/g;
    return $text;
});
$balancer->start;

sub turn {
    my ($number, $turns) = @_;
    my @messages = qq({"role":"user","content":"question $number"});
    push @messages, qq({"role":"assistant","content":"answer"}), qq({"role":"user","content":"more"})
        for 2 .. $turns;
    return '{"messages":[' . join(',', @messages) . '],"model":"mock","mock":{"tokens":1}}';
}

sub node_of {
    my ($body) = @_;
    my $r = $balancer->get('/v1/chat/completions', body => $body) or return 'none';
    return $r->{head} =~ /^X-Node: (\d)/m ? $1 : "status $r->{status}";
}

my (@home, %share);
for my $number (1 .. 20) {
    my %seen = map { node_of(turn($number, $_)) => 1 } 1 .. 3;
    is(scalar(keys %seen), 1, "three turns of conversation $number") or diag(join ' ', keys %seen);
    $home[$number] = (keys %seen)[0];
    $share{$home[$number]}++;
}
cmp_ok($share{$_} // 0, '>', 1, "node $_ has some of them") for 1, 2;

my $long = '{"role":"system","content":"' . 'be good ' x 200 . '"},';
my %seen = map {
    my $body = turn($_, 1);
    $body =~ s/\[/[$long/;
    node_of($body) => 1;
} 1 .. 6;
is(scalar(keys %seen), 1, 'six prompts with one long beginning meet');

my $s = LLM::Nginx::Stream->new($balancer, LLM::Nginx::request_text('/v1/chat/completions',
    body => LLM::Nginx::body(tokens => 5, delay_ms => 200)));
ok($s->read_until(qr/tok0 /, 5), 'a stream comes through');
ok($s->{data} !~ /tok4 /, 'token by token');
like($s->finish->{body}, qr/tok4 .*\[DONE\]/s, 'to its end');

$nodes[0]->stop;
my ($moved, $wrong) = (0, 0);
for my $number (1 .. 20) {
    my $now = node_of(turn($number, 4));
    $home[$number] eq '1' ? ($moved += $now eq '2') : ($wrong += $now ne '2');
}
is($moved, $share{1}, 'a node goes: its conversations are served by the other');
is($wrong, 0, 'whose own stay');

$balancer->stop;
$nodes[1]->stop;
$_->check_log for @nodes;
$balancer->check_log;
done_testing();
