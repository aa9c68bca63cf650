# route_balance.t - llm_balance with real workers: who gets how much, and that
# the same prompts come to the same engine.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $served = 'add_header X-Engine $llm_engine always;';

sub start {
    my ($balance, %o) = @_;
    my $engines = delete $o{engines} || { a => '', b => '', c => '' };
    my $n = LLM::Nginx->new(engines => $engines, workers => 1,
        http => 'llm_model chat ' . join(' ', sort keys %$engines) . ';',
        location => "$served llm_balance $balance;", %o);
    $n->start;
    $n->wait_ready(20);
    return $n;
}

sub engine_of {
    my ($text) = @_;
    return $text =~ /^X-Engine: ([^\r]*)/m ? $1 : 'none';
}

# Streams that last until they are closed; returns them and who has how many.
sub hold {
    my ($n, $count, %mock) = @_;
    my (@streams, %share);
    for (1 .. $count) {
        my $s = $n->stream(tokens => 100000, delay_ms => 100, %mock) or next;
        $s->read_until(qr/tok0/, 10);
        $share{engine_of($s->{data})}++;
        push @streams, $s;
    }
    return (\@streams, \%share);
}

sub once {
    my ($n, $body) = @_;
    my $r = $n->get('/v1/chat/completions', body => $body) or return 'none';
    return engine_of("$r->{head}\r\n");
}

sub finish {
    my ($n) = @_;
    $n->stop;
    $n->check_clean;
    return;
}

subtest 'least_conn: equal engines get equal shares, and a free one the next' => sub {
    my $n = start('least_conn');
    my ($streams, $share) = hold($n, 18);
    is_deeply($share, { a => 6, b => 6, c => 6 }, '18 streams on three engines');
    my ($gone) = grep { engine_of($streams->[$_]{data}) eq 'b' } 0 .. 17;
    $streams->[$gone]->close;
    ok($n->wait_for(sub { $n->log =~ /cancel request/ }), 'one of them ends');
    # the engine's last word on the one that left frees its place; then it is its
    # turn every time, not one in three
    ok($n->wait_for(sub {
        return 'bbb' eq join '', map { once($n, LLM::Nginx::body(tokens => 1, stream => 'false')) } 1 .. 3;
    }), 'its engine is next');
    $_->close for @$streams;
    finish($n);
};

subtest 'least_conn: what an engine publishes counts, also of other workers' => sub {
    my $n = start('least_conn', engines => { a => 'load 50;', b => '', c => 'waiting 6;' });
    my ($streams, $share) = hold($n, 20);
    is_deeply($share, { b => 20 }, 'an engine with 50 others, one with 6 that wait');
    my ($more, $then) = hold($n, 8);
    cmp_ok($then->{c} // 0, '>', 0, 'who waits weighs as four who run');
    ok(!$then->{a}, 'and 50 are more than that');
    $_->close for @$streams, @$more;
    finish($n);
};

subtest 'least_conn: two workers agree by what is published' => sub {
    my $n = start('least_conn', workers => 2, engines => { a => '', b => '' });
    my ($streams, %share) = ([]);
    for (1 .. 6) {
        my ($s, $share) = hold($n, 4);
        push @$streams, @$s;
        $share{$_} += $share->{$_} for keys %$share;
        select undef, undef, undef, 0.3;              # a heartbeat is 250 ms
    }
    cmp_ok(abs($share{a} - $share{b}), '<=', 6, "24 streams: $share{a} and $share{b}");
    $_->close for @$streams;
    finish($n);
};

subtest 'least_conn: of equals the one with the emptier cache' => sub {
    my $n = start('least_conn', engines => { a => 'kv_used 900;', b => '', c => 'kv_used 900;' });
    my $body = LLM::Nginx::body(tokens => 1, stream => 'false');
    is(join('', map { once($n, $body) } 1 .. 6), 'bbbbbb', 'six requests, one by one');
    finish($n);
};

subtest 'round_robin' => sub {
    my $n = start('round_robin');
    my %share;
    $share{once($n, LLM::Nginx::body(tokens => 1, stream => 'false'))}++ for 1 .. 9;
    is_deeply(\%share, { a => 3, b => 3, c => 3 }, 'nine requests');
    finish($n);
};

sub turn {
    my ($number, $turns) = @_;
    my @messages = (qq({"role":"system","content":"be brief"}),
        qq({"role":"user","content":"question $number"}));
    push @messages, qq({"role":"assistant","content":"answer $_"}),
        qq({"role":"user","content":"more $_"}) for 2 .. $turns;
    return '{"messages":[' . join(',', @messages) . '],"mock":{"tokens":1}}';
}

subtest 'prefix_hash: a conversation stays, others do not move when an engine goes' => sub {
    my $n = start('prefix_hash');
    my (@home, %share);
    for my $number (1 .. 24) {
        my %seen = map { once($n, turn($number, $_)) => 1 } 1 .. 3;
        is(scalar(keys %seen), 1, "conversation $number") or diag(join ' ', keys %seen);
        $home[$number] = (keys %seen)[0];
        $share{$home[$number]}++;
    }
    cmp_ok($share{$_} // 0, '>', 0, "engine $_ has some") for qw(a b c);
    my @b = ($n->supervisor('b'), $n->standby('b'), $n->engine('b'));
    kill 'KILL', grep { defined } @b;                 # nobody starts it again
    my ($moved, $wrong) = (0, 0);
    for my $number (1 .. 24) {
        my $now = once($n, turn($number, 4));
        $moved++ if $home[$number] eq 'b' && $now =~ /(?:^|, )[ac]$/;
        $wrong++ if $home[$number] ne 'b' && $now ne $home[$number];
    }
    is($moved, $share{b}, 'its conversations are served by the others');
    is($wrong, 0, 'theirs stay where they are');
    $n->stop;
    $n->check_log;
};

subtest 'prefix_hash: one prompt does not bury one engine' => sub {
    my $n = start('prefix_hash');
    my ($streams, $share) = hold($n, 30);
    my ($max) = sort { $b <=> $a } values %$share;
    is(scalar(keys %$share), 3, 'the same prompt 30 times: all help');
    cmp_ok($max, '<=', 16, "none has more than 1.25 shares and 3: $max");
    $_->close for @$streams;
    finish($n);
};

done_testing();
