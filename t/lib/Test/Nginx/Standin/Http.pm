# Http.pm - the texts of HTTP/1 requests and responses, as pure functions.
#
#     my $connections = requests_of($block);   # [[{value, delay_before}...]...]
#     my ($res, $raw_headers, $rest) = parse_response($name, $bytes, $is_head);
#
# A request is a list of packets because a test may send one in pieces.
package Test::Nginx::Standin::Http;

use strict;
use warnings;

use Exporter 'import';
use Test::Nginx::Util qw(bail_out expand_env extra_failure);

our @EXPORT_OK = qw(requests_of parse_response);

# ---- requests ---------------------------------------------------------------

# One element per connection to open, each a list of packets.
sub requests_of {
    my ($block) = @_;
    my $name = $block->name;
    if (defined(my $raw = $block->raw_request)) {
        return [[map { { value => $_ } } ref $raw eq 'ARRAY' ? @$raw : $raw]];
    }
    return [_pipelined($block)] if $block->pipelined_requests;

    my $request = $block->request;
    $request = eval $block->request_eval if defined $block->request_eval;
    bail_out("$name - no --- request section") if !defined $request;
    if (!ref $request) {
        $request =~ s/^(?:\s*#[^\n]*\n|\s+)+//;
        $request = [$request];
    } elsif (ref $request ne 'ARRAY') {
        bail_out("$name - --- request must be a string or an array");
    }

    my @connections;
    for my $i (0 .. $#$request) {
        my @packets = map { ref $_ ? {%$_} : { value => $_ } }
            ref $request->[$i] eq 'ARRAY' ? @{ $request->[$i] } : $request->[$i];
        my @texts = _complete($name, _headers_for($block, $i), 'close',
                              map { $_->{value} } @packets);
        $packets[$_]{value} = $texts[$_] for 0 .. $#packets;
        push @connections, \@packets;
    }
    return \@connections;
}

# All requests in one packet: kept alive but for the last one.
sub _pipelined {
    my ($block) = @_;
    my $list = $block->pipelined_requests;
    ref $list eq 'ARRAY'
        or bail_out($block->name . ' - --- pipelined_requests is no array');
    my $bytes = '';
    for my $i (0 .. $#$list) {
        my $text = expand_env($list->[$i], $block->name);
        $bytes .= join '', _complete($block->name, _headers_for($block, $i),
            $i == $#$list ? 'close' : 'keep-alive', $text);
    }
    return [{ value => $bytes }];
}

# The --- more_headers of request $i as CRLF lines; comments are left out.
sub _headers_for {
    my ($block, $i) = @_;
    my $text = $block->more_headers;
    if (ref $text eq 'ARRAY') {
        $text = $text->[$i]
            // bail_out($block->name . " - --- more_headers has no element $i");
    }
    my $out = '';
    for my $line (split /\n+/, $text // '') {
        next if $line =~ /^\s*#/;
        my ($key, $value) = split /:\s*/, $line, 2;
        $value //= '';
        $value =~ s/\r$//;
        $out .= "$key: $value\r\n";
    }
    return $out;
}

# Turns "METHOD [URL [VERSION]]\nBODY", cut into packets anywhere, into the
# packets to send.  Work goes over the joined text as (source length, output)
# pairs; each output goes to the packet in which its source begins, and text
# that is not changed is cut where the test cut it.
sub _complete {
    my ($name, $headers, $connection, @packets) = @_;
    my $source = join '', @packets;
    $source =~ /^(\s*)(\S+)([ \t]*)(?:(\S+)([ \t]*))?(?:(\S+)[ \t]*)?(\r?\n|$)/
        or bail_out("$name - Request line is not \"METHOD [URL [VERSION]]\"");
    my ($lead, $method, $url, $version, $line_len) =
        ($1, $2, $4, $6, $+[0]);
    my $url_at     = defined $url ? $-[4] : $-[7];
    my $version_at = defined $version ? $-[6] : $-[7];
    my $body       = substr $source, $line_len;

    my ($skip_front, $kept) = (0, $body);
    my $length_header = '';
    if ($body ne '' && $headers !~ /^Transfer-Encoding: chunked\r$/mi
        && $headers !~ /^Content-Length:/m)
    {
        $skip_front = $body =~ /^(\s+)/ ? length $1 : 0;
        ($kept = $body) =~ s/^\s+|\s+$//g;
        $length_header = 'Content-Length: ' . length($kept) . "\r\n";
    }
    my $all = '';
    $all .= "Host: $Test::Nginx::Util::ServerName\r\n" if $headers !~ /^Host:/mi;
    $all .= "Connection: $connection\r\n" if $headers !~ /^Connection/mi;
    $all .= "$headers$length_header\r\n";

    # Positions never go back: an absent word has no width.
    my @pieces = (
        [length $lead, "$method "],
        [$url_at, ($url // '/') . ' '],
        [$version_at, ($version // 'HTTP/1.1') . "\r\n$all"],
    );
    my @out = ('') x @packets;
    $out[_packet_at($_->[0], \@packets)] .= $_->[1] for @pieces;
    my $at = $line_len + $skip_front;
    my $end = $at + length $kept;
    my $start = 0;
    for my $i (0 .. $#packets) {
        my $stop = $start + length $packets[$i];
        my ($from, $to) = ($at > $start ? $at : $start, $end < $stop ? $end : $stop);
        $out[$i] .= substr $source, $from, $to - $from if $to > $from;
        $start = $stop;
    }
    return @out;
}

sub _packet_at {
    my ($offset, $packets) = @_;
    my $end = 0;
    for my $i (0 .. $#$packets) {
        $end += length $packets->[$i];
        return $i if $offset < $end;
    }
    return $#$packets;
}

# ---- responses --------------------------------------------------------------

# Returns ({code, header => {lower-case name => value}, content}, raw header
# text, bytes after the response).  Bytes that are no HTTP give a code of undef.
# Chunked content is decoded; a malformed one is a failure and returns nothing.
sub parse_response {
    my ($name, $bytes, $is_head) = @_;
    my $raw_headers = $bytes =~ /^(.*?\r\n)\r\n/s ? $1 : '';
    my $res = { code => undef, header => {}, content => '' };
    my ($status_line, $tail) = split /\r?\n/, $bytes, 2;
    if (defined $status_line && $status_line =~ m{^HTTP/\d\S*\s+(\d{3})\b}) {
        $res->{code} = $1;
    }
    my ($head, $content) = split /\r?\n\r?\n/, "\n" . ($tail // ''), 2;
    $res->{content} = $content // '';
    _add_header($res, $1, $2) while ($head // '') =~ /^([^\s:]+):[ \t]*(.*?)[ \t]*\r?$/mg;

    my $code = $res->{code} // 0;
    return ($res, $raw_headers) if $code == 304 || $code == 101;
    if (($res->{header}{'transfer-encoding'} // '') eq 'chunked' && !$is_head) {
        my ($decoded, $left) = _dechunk($res);
        if (!defined $decoded) {
            extra_failure("$name - $left");
            return;
        }
        $res->{content} = $decoded;
        return ($res, $raw_headers, $left);
    }
    my $length = $res->{header}{'content-length'};
    return ($res, $raw_headers) if !defined $length || $length !~ /^\d+$/;
    my $left;
    if (length $res->{content} > $length) {
        $left = substr $res->{content}, $length;
        $res->{content} = substr $res->{content}, 0, $length;
    } elsif (length $res->{content} < $length && !$is_head) {
        warn "WARNING: $name - response body truncated: $length expected, but got ",
            length $res->{content}, "\n";
    }
    return ($res, $raw_headers, $left);
}

# Repeated headers are joined with ", ", as RFC 9110 section 5.3 allows.
sub _add_header {
    my ($res, $key, $value) = @_;
    my $slot = \$res->{header}{lc $key};
    $$slot = defined $$slot ? "$$slot, $value" : $value;
    return;
}

# RFC 9112 section 7.1.  Returns (content, rest), or (undef, what is wrong).
sub _dechunk {
    my ($res) = @_;
    my $raw = $res->{content};
    my $content = '';
    pos($raw) = 0;
    while (1) {
        $raw =~ /\G[ \t]*([0-9A-Fa-f]+)[ \t]*(?:;[^\r\n]*)?\r\n/gc
            or return (undef, pos($raw) == length $raw
                ? "no last chunk found - $raw"
                : 'invalid chunked body received: ' . substr $raw, pos $raw);
        my $size = hex $1;
        last if $size == 0;
        my $at = pos $raw;
        return (undef, 'invalid chunked data: the data section is too short')
            if length($raw) < $at + $size + 2;
        $content .= substr $raw, $at, $size;
        return (undef, 'invalid chunked data: no CRLF after the data section')
            if substr($raw, $at + $size, 2) ne "\r\n";
        pos($raw) = $at + $size + 2;
    }
    $raw =~ /\G(?:[^\r\n]+\r\n)*\r\n/gc
        or return (undef, 'invalid chunked data: no CRLF after the last chunk');
    my $left = substr $raw, pos $raw;
    return ($content, $left eq '' ? undef : $left);
}

1;
