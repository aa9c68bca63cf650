# Limits.pm - requests with a key and max_tokens, for t/limit_*.t and t/quota_*.t.
#
#     my $r = ask($n, 'alice', max_tokens => 100, tokens => 5, prompt_tokens => 10);
#     $r->{code}, remaining($r), message($r)
#
# max_tokens is the client's; everything else is the mock engine's plan (see
# tools/llm_mock_engine.c).  remaining() is what the answer's header says right
# after the reservation; left() asks with nothing but a prompt of one token.
package LLM::Limits;

use strict;
use warnings;

use Exporter 'import';
our @EXPORT = qw(ask stream header remaining message code left peek logged LOG);

use constant LOG => 'log_format limit "$http_x_key $status $llm_limit_status '
    . '$llm_reserved_tokens $llm_tokens_remaining $llm_finish_reason";';

sub text {
    my (%mock) = @_;
    my $stream = delete $mock{stream} // 'false';
    my $max = delete $mock{max_tokens};
    $max = defined $max ? qq("max_tokens":$max,) : '';
    my $mock = join ',', map {
        my $v = $mock{$_};
        sprintf '"%s":%s', $_, $v =~ /^(?:\d+|true|false)$/ ? $v : "\"$v\"";
    } sort keys %mock;
    return qq({"model":"mock","stream":$stream,$max"messages":[],"mock":{$mock}});
}

sub uri { return delete $_[0]{uri} // '/v1/chat/completions' }

sub ask {
    my ($n, $key, %mock) = @_;
    my $uri = uri(\%mock);
    return $n->get($uri, body => text(%mock), headers => { 'X-Key' => $key });
}

sub stream {
    my ($n, $key, %mock) = @_;
    my $uri = uri(\%mock);
    return LLM::Nginx::Stream->new($n, LLM::Nginx::request_text($uri,
        body => text(stream => 'true', %mock), headers => { 'X-Key' => $key }));
}

sub header {
    my ($r, $name) = @_;
    return $r->{head} =~ /^\Q$name\E: ([^\r\n]*)/im ? $1 : undef;
}

sub remaining { return header($_[0], 'x-ratelimit-remaining-tokens') }
sub message { return $_[0]{body} =~ /"message":"([^"]*)"/ ? $1 : '' }
sub code { return $_[0]{body} =~ /"code":"([^"]*)"/ ? $1 : '' }

# Tokens left to a key, found by asking for more than there can be.
sub left {
    my ($n, $key, %o) = @_;
    my $r = ask($n, $key, tokens => 1, max_tokens => 1, prompt_tokens => 999_999, %o);
    return $r ? remaining($r) : undef;
}

# Waits until left() is what it should be; returns it.
sub peek {
    my ($n, $key, $want, %o) = @_;
    my $left;
    $n->wait_for(sub { $left = left($n, $key, %o); defined $left && $left == $want }, 5);
    return $left;
}

sub logged {
    my ($n, $name) = @_;
    return [split /\n/, $n->log($name || 'limit.log')];
}

1;
