// Telegraf, with the plugins that the recipes of docs/CONNECT.md and tests/senders/telegraf.py use and no others.
//
//	telegraf CONFIG [--once]
//
// Its own command needs modules of all its plugins; the agent, the reader of configurations and the plugins here are
// the same.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/influxdata/telegraf/agent"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"
	_ "github.com/influxdata/telegraf/plugins/inputs/cpu"
	_ "github.com/influxdata/telegraf/plugins/inputs/disk"
	_ "github.com/influxdata/telegraf/plugins/inputs/file"
	_ "github.com/influxdata/telegraf/plugins/inputs/mem"
	_ "github.com/influxdata/telegraf/plugins/inputs/net"
	_ "github.com/influxdata/telegraf/plugins/inputs/tail"
	_ "github.com/influxdata/telegraf/plugins/outputs/file"
	_ "github.com/influxdata/telegraf/plugins/outputs/http"
	_ "github.com/influxdata/telegraf/plugins/outputs/influxdb"
	_ "github.com/influxdata/telegraf/plugins/outputs/influxdb_v2"
	_ "github.com/influxdata/telegraf/plugins/parsers/influx"
	_ "github.com/influxdata/telegraf/plugins/serializers/influx"
	_ "github.com/influxdata/telegraf/plugins/serializers/json"
)

func main() {
	configuration := config.NewConfig()
	if err := configuration.LoadConfig(os.Args[1]); err != nil {
		log.Fatalf("E! %s: %v", os.Args[1], err)
	}
	if err := logger.SetupLogging(&logger.Config{Quiet: configuration.Agent.Quiet}); err != nil {
		log.Fatalf("E! %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := agent.NewAgent(configuration)
	var err error
	if len(os.Args) > 2 && os.Args[2] == "--once" {
		err = run.Once(ctx, 0)
	} else {
		err = run.Run(ctx)
	}
	if err != nil {
		log.Fatalf("E! %v", err)
	}
}
