package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// dial sends stdin while it prints the reply, which may begin before stdin has ended and end after.
func dial(ctx context.Context, o options) error {
	authorizer, err := only(o.expect)
	if err != nil {
		return err
	}
	source, err := source(ctx, o)
	if err != nil {
		return err
	}
	defer source.Close()
	dialer := net.Dialer{Timeout: o.timeout}
	raw, err := dialer.DialContext(ctx, "tcp", o.to)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", o.to, err)
	}
	conn := tls.Client(raw, tlsconfig.MTLSClientConfig(source, source, authorizer))
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := handshake(ctx, conn, o); err != nil {
		return err
	}

	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		if err == nil {
			err = conn.CloseWrite()
		}
		sent <- err
	}()
	// The reply's end ends it all: a server that has no more to say may not want the rest of stdin. In TLS 1.3 a
	// server's refusal of our certificate comes here as well.
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return fmt.Errorf("receiving from %s: %w", o.to, err)
	}
	select {
	case err := <-sent:
		if err != nil {
			return fmt.Errorf("sending to %s: %w", o.to, err)
		}
	default:
	}
	return nil
}
