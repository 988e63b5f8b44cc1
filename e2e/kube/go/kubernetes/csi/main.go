// Package main is a storage driver for one node whose volumes are real file systems that run full and really grow:
// an XFS in a sparse file behind a loop device each. (A mounted ext4 grows only with CAP_SYS_RESOURCE.)
//
// Claims are provisioned here; growing is asked for by the real external-resizer and the real kubelet.
//
// Arguments: socket, registration socket, folder of the volumes, node, kubeconfig.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const driverName = "loop.e2e.kvtide.dev"

func main() {
	socket, registrationSocket, folder, node, kubeconfig := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	volumes := volumeFolder(folder)
	p := provisioner{api: kubernetes.NewForConfigOrDie(config), volumes: volumes, node: node}
	go func() {
		for ; ; time.Sleep(time.Second) {
			if err := p.once(context.Background()); err != nil {
				log.Print("provisioning: ", err)
			}
		}
	}()
	go serve(registrationSocket, func(s *grpc.Server) {
		registration.RegisterRegistrationServer(s, &registrar{socket: socket})
	})
	serve(socket, func(s *grpc.Server) {
		d := &driver{volumes: volumes, node: node}
		csi.RegisterIdentityServer(s, d)
		csi.RegisterControllerServer(s, d)
		csi.RegisterNodeServer(s, d)
	})
}

func serve(socket string, register func(*grpc.Server)) {
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(
		func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			reply, err := handle(ctx, request)
			if err != nil {
				log.Print(info.FullMethod, ": ", err)
			}
			return reply, err
		}))
	register(server)
	log.Fatal(server.Serve(listener))
}

// registrar tells the kubelet where the driver is.
type registrar struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: driverName, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrar) NotifyRegistrationStatus(
	_ context.Context, status *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	log.Print("registered: ", status.PluginRegistered, " ", status.Error)
	return &registration.RegistrationStatusResponse{}, nil
}
