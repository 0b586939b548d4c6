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

// serve echoes every connection. It prints the address that it listens on, and on stderr what becomes of each
// connection.
func serve(ctx context.Context, o options) error {
	authorizer, err := only(o.accept)
	if err != nil {
		return err
	}
	source, err := source(ctx, o)
	if err != nil {
		return err
	}
	defer source.Close()
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", o.listen, err)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	fmt.Println(listener.Addr())

	config := tlsconfig.MTLSServerConfig(source, source, authorizer)
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting on %s: %w", o.listen, err)
		}
		go func() {
			if err := echo(ctx, tls.Server(conn, config), o); err != nil {
				fmt.Fprintf(os.Stderr, "peer: %s: %v\n", conn.RemoteAddr(), err)
			}
		}()
	}
}

// echo sends back what comes until the client has no more to send, and then says that this was all.
func echo(ctx context.Context, conn *tls.Conn, o options) error {
	defer conn.Close()
	if err := handshake(ctx, conn, o); err != nil {
		return err
	}
	if _, err := io.Copy(conn, conn); err != nil {
		return fmt.Errorf("echoing: %w", err)
	}
	if err := conn.CloseWrite(); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	return nil
}

func handshake(ctx context.Context, conn *tls.Conn, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("the handshake with %s: %w", conn.RemoteAddr(), err)
	}
	return nil
}
